# SPDX-License-Identifier: GPL-3.0-or-later
"""How one request ended, as it is told to all that look on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rbee.daemons.queen.asked import Asked
    from rbee.daemons.queen.known.worker import Worker


class Ended(msgspec.Struct, gc=False):
    """Seconds: `seconds` since it arrived, `first_byte` since the worker had it (None: none came), `overhead` what the
    queen took herself before she sent it. `end` is the relay's, or `refused`; then `code` is the error's.

    `asked` None: it was refused before it was understood. `worker` None: nobody was asked, or nobody gave an answer.
    `sent` is bytes of the answer, its head included.
    """

    request_id: str
    path: str
    status: int
    end: str
    seconds: float
    asked: Asked | None = None
    worker: Worker | None = None
    first_byte: float | None = None
    overhead: float = 0.0
    sent: int = 0
    code: str = ""
