# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that reach a person or a wire. Each has a stable `code` and says how to mend it when that is known."""

from __future__ import annotations

from collections.abc import Mapping


class RbeeError(Exception):
    """Base of all of rbee's own errors; `code` is stable and machine-readable (snake_case)."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, mend: str = "", param: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.mend = mend
        #: The field of the request that it is about, where there is one.
        self.param = param

    @property
    def message(self) -> str:
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.message} {self.mend}".rstrip()


class NotFound(RbeeError):
    code = "not_found"


class Conflict(RbeeError):
    """The thing is in a state that forbids this (in use, already there, already ended)."""

    code = "conflict"


class InvalidRequest(RbeeError):
    """What was asked cannot be: the caller must change it."""

    code = "invalid_request"


class Unreachable(RbeeError):
    """A machine or daemon could not be reached; it may be well. Unknown, never absent."""

    code = "unreachable"


class Unauthorized(RbeeError):
    code = "unauthorized"


class Insufficient(RbeeError):
    """Not enough memory, disk, ports or devices."""

    code = "insufficient_resources"


class Interrupted(RbeeError):
    """Stopped from outside before it ended (Ctrl-C, cancel, restart)."""

    code = "interrupted"


class Unavailable(RbeeError):
    """Not now; the same request may succeed after `retry_after` seconds."""

    code = "unavailable"

    def __init__(self, message: str, *, code: str | None = None, mend: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, code=code, mend=mend)
        self.retry_after = retry_after


class DeadlineExceeded(RbeeError):
    """The time that the caller gave is over."""

    code = "deadline_exceeded"


class TooMany(Unavailable):
    """Refused for now because there is too much: a limit, a full queue. HTTP's 429."""

    code = "rate_limited"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        mend: str = "",
        retry_after: float = 1.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code, mend=mend, retry_after=retry_after)
        #: What the answer says beside, such as how much of a limit is left.
        self.headers = headers or {}
