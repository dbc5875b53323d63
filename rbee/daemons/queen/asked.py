# SPDX-License-Identifier: GPL-3.0-or-later
"""A request for an answer, as the queen's rooms hand it to one another. One for each: no more than is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rbee.contracts.openai import Peek

if TYPE_CHECKING:
    from rbee.daemons.queen.admission.clients import Client


class Asked:
    """`arrived` and `ends` are of the queen's clock; `ends` None: no deadline. `headers` are the client's.

    `tried` has what failed this request already (worker id to reason), `again` those that are well again and may have
    it once more; `choice` is routing's, for `rbee explain`; `queued` is when it began to wait for a slot, `waited` how
    many seconds it did in all.
    """

    __slots__ = (
        "again",
        "arrived",
        "choice",
        "client",
        "ends",
        "headers",
        "models",
        "name",
        "notes",
        "path",
        "peek",
        "queued",
        "request_id",
        "size",
        "tried",
        "waited",
    )

    def __init__(
        self,
        request_id: str,
        path: str,
        name: str,
        models: tuple[str, ...],
        peek: Peek,
        size: int,
        client: Client,
        headers: Mapping[str, str],
        arrived: float,
        ends: float | None,
    ) -> None:
        self.request_id = request_id
        self.path = path
        self.name = name
        self.models = models
        self.peek = peek
        self.size = size
        self.client = client
        self.headers = headers
        self.arrived = arrived
        self.ends = ends
        self.tried: dict[str, str] = {}
        self.again: tuple[str, ...] = ()
        self.choice: Any = None
        self.notes: tuple[str, ...] = ()
        self.queued: float | None = None
        self.waited = 0.0
