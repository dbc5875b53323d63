# SPDX-License-Identifier: GPL-3.0-or-later
"""The data path: an upstream's bytes spliced to the client past the front, one parse and one write a segment.

An aiohttp handler reads the body, calls `Splice.forward` and returns what that returns. A front of one's own gives
`Splice.start` a `ClientRequest` and is called when all is over.
"""

from .client import ClientRequest, End, Hearing, Outcome, SentResponse, Tap, WebRequest, read_body
from .connection import Upstream
from .core import Splice
from .errors import (
    BadAnswer,
    ConnectRefused,
    ConnectTimeout,
    DiedBeforeFirstByte,
    DiedMidAnswer,
    FirstByteTimeout,
    Stopped,
    UpstreamError,
)
from .reader import Answer, SseEvent
from .relay import DecodingRelay, Relay

__all__ = [
    "Answer",
    "BadAnswer",
    "ClientRequest",
    "ConnectRefused",
    "ConnectTimeout",
    "DecodingRelay",
    "DiedBeforeFirstByte",
    "DiedMidAnswer",
    "End",
    "FirstByteTimeout",
    "Hearing",
    "Outcome",
    "Relay",
    "SentResponse",
    "Splice",
    "SseEvent",
    "Stopped",
    "Tap",
    "Upstream",
    "UpstreamError",
    "WebRequest",
    "read_body",
]
