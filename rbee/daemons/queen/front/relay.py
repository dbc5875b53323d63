# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's relay: a worker that answers 503 has not answered, as long as another one may."""

from __future__ import annotations

from typing import Any

from rbee.adapters.splice import DecodingRelay, Relay, UpstreamError
from rbee.contracts import codec, openai
from rbee.daemons.queen.front.errors import DIED


class WorkerRefused(UpstreamError):
    """The worker is up and cannot answer now (its engine loads, or just died); `why` is what it said."""

    def __init__(self, message: str, why: str = "answered 503") -> None:
        super().__init__(message)
        self.why = why


class RetryingRelay(Relay):
    """Raises WorkerRefused for a 503, of which the client has seen nothing."""

    def answered(self, rest: bytes) -> None:
        if self.status != 503:
            super().answered(rest)
            return
        self.status = 0  # nothing is written: the request may go elsewhere
        why = _why(rest)
        # A class is asked for, and all that is done with it is to call it.
        self.fail(why, lambda message: WorkerRefused(message, why))  # type: ignore[arg-type]


class RetryingOldRelay(RetryingRelay, DecodingRelay):
    """The same for clients of HTTP/1.0."""


def _why(body: bytes) -> str:
    try:
        error = codec.decode(dict[str, Any], body)["error"]
        return f"{DIED if error.get('code') == openai.ENGINE_DIED else ''}{error['message']}"[:300]
    except (codec.CodecError, KeyError, TypeError, AttributeError):
        return "answered 503"
