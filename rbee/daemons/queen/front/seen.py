# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is told how each request ended."""

from __future__ import annotations

from typing import Protocol

from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.known.worker import Worker


class Seen(Protocol):
    """Told of every request that came in on an inference path, whatever became of it. Costs every request: no awaits.

    `active`: requests under way. `retries`: tries of a worker that failed and were made good by another.
    """

    active: int
    retries: int

    def done(
        self,
        asked: Asked | None,
        request_id: str,
        path: str,
        worker: Worker | None,
        status: int,
        end: str,
        seconds: float,
        first_byte_seconds: float | None,
        bytes_out: int,
    ) -> None:
        """A request is over, once. `asked` is None when it was refused before it was understood; `worker` is who
        answered, None: nobody was asked, or none that was gave an answer. `end` is the relay's, or `refused`. `seconds`
        since it arrived, `first_byte_seconds` since it was sent to the worker.
        """
