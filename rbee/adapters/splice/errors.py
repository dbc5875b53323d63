# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong between us and an upstream.

All but `DiedMidAnswer` are raised before the first byte of an answer reached the client, so the
caller may still send the request elsewhere or answer with an error of its own.
"""

from __future__ import annotations


class UpstreamError(Exception):
    """An upstream (worker or engine) did not answer as it should have."""


class ConnectRefused(UpstreamError):
    """No connection could be made: refused, no route, no such name. `errno` when the system gave one."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class ConnectTimeout(UpstreamError):
    """The connection was not made in time."""


class FirstByteTimeout(UpstreamError):
    """The request was sent and the head of the answer did not come in time."""


class DiedBeforeFirstByte(UpstreamError):
    """The connection ended before the head of the answer was complete (on a fresh connection)."""


class BadAnswer(DiedBeforeFirstByte):
    """What came back is not an HTTP/1.1 answer, or its head is too large."""


class DiedMidAnswer(UpstreamError):
    """The connection ended, broke HTTP's rules or fell silent inside the body (`Splice.open` only)."""


class Stopped(UpstreamError):
    """We gave it up because we stop."""
