# SPDX-License-Identifier: GPL-3.0-or-later
"""The data path: an upstream's bytes spliced to the client past the front, one parse and one write a segment.

The front stays aiohttp: a handler reads the body, calls `Splice.forward` and returns what that returns.
"""

from .client import End, Outcome, SentResponse, read_body
from .connection import Upstream
from .core import Splice
from .errors import (
    BadAnswer,
    ConnectRefused,
    ConnectTimeout,
    DiedBeforeFirstByte,
    DiedMidAnswer,
    FirstByteTimeout,
    UpstreamError,
)
from .reader import Answer, SseEvent

__all__ = [
    "Answer",
    "BadAnswer",
    "ConnectRefused",
    "ConnectTimeout",
    "DiedBeforeFirstByte",
    "DiedMidAnswer",
    "End",
    "FirstByteTimeout",
    "Outcome",
    "SentResponse",
    "Splice",
    "SseEvent",
    "Upstream",
    "UpstreamError",
    "read_body",
]
