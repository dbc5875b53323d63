# SPDX-License-Identifier: GPL-3.0-or-later
"""The head of a connection's last request, by which the next one like it is known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rbee.daemons.queen.front.incoming import Incoming

if TYPE_CHECKING:
    import asyncio

    from rbee.adapters.secrets import Token
    from rbee.adapters.splice import Tap
    from rbee.daemons.queen.admission.clients import Client

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)
#: The longest head that is kept, and digits of a length that is surely not too much.
_LONGEST, _DIGITS = 4096, 7


class KnownHead:
    """A head that has been read. Clients ask again with the same one, but for the length of the body: such a request
    is known by comparing bytes, and nothing of it has to be read twice."""

    __slots__ = ("_after", "_before", "_client", "_generation", "_read", "passed")

    def __init__(self, request: Incoming, before: bytes, after: bytes) -> None:
        """`before` and `after` are the head, but for the digits of its length."""
        self._before = before
        self._after = after
        self._read = (request.target, request.path, request.token, request.lines, request.headers)
        self._client: Client | None = None
        self._generation = -1
        #: Its lines as they go on to a worker, beside which lines of ours.
        self.passed: tuple[tuple[bytes, ...], bytes] | None = None

    @classmethod
    def of(cls, request: Incoming, head: bytes) -> KnownHead | None:
        """None: it is too long to be kept, or of a kind that is rare."""
        if len(head) > _LONGEST or request.expects or request.old or not request.keep_alive:
            return None
        found = _LENGTH.search(head)
        return cls(request, head[: found.start(1)], head[found.end(1) :]) if found is not None else None

    def sent_by(self, client: Client, generation: int) -> None:
        """Whose it is, as `Clients` of this generation know him."""
        self._client, self._generation = client, generation

    def again(
        self, data: bytes, tap: Tap, transport: asyncio.Transport, token: Token | None, generation: int
    ) -> Incoming | None:
        """The request that `data` begins with, of a listener that wants `token` now; `generation` is that of the
        clients. None: it has another head, or not the whole of it is there."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        end = data.find(b"\r\n\r\n", len(before))
        if end < 0:
            return None
        ends = end + 4 - len(after)
        said = data[len(before) : ends]
        if not said.isdigit() or len(said) > _DIGITS or not data.startswith(after, ends):
            return None
        target, path, wanted, lines, headers = self._read
        if token is not wanted:
            return None
        request = Incoming(target, path, tap, transport, token)
        request.lines, request.headers, request.length = lines, headers, int(said)
        request.begins, request.known = end + 4, self
        if self._generation == generation:
            request.client = self._client
        return request
