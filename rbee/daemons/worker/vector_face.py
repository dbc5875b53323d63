# SPDX-License-Identifier: GPL-3.0-or-later
"""`/v1/embeddings` and `/v1/rerank`: checked, asked of the engine piece by piece, answered whole."""

from __future__ import annotations

from aiohttp import web

from rbee.adapters.splice import DiedMidAnswer, Splice
from rbee.contracts import openai
from rbee.core import sampling
from rbee.daemons.worker.asking import engine_died, noticing, opened
from rbee.daemons.worker.state import WorkerState
from rbee.daemons.worker.supervisor import Supervisor
from rbee.daemons.worker.vectors import pieces, together
from rbee.daemons.worker.words import counts_in

#: Where the inputs stand in a request, and the results in its answer.
FIELDS = {"/v1/embeddings": ("input", "data"), "/v1/rerank": ("documents", "results")}
#: An answer begins or ends with its counts; what stands between is not looked through.
_EDGE = 1024


class VectorFace:
    """`width`: how many numbers an embedding of the model has, where that is known. `answer` raises as the other faces
    do: BadBody, EngineError, Unavailable, DeadlineExceeded."""

    def __init__(self, state: WorkerState, supervisor: Supervisor, splice: Splice, width: int | None) -> None:
        self._state = state
        self._supervisor = supervisor
        self._splice = splice
        self._width = width

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """A client that leaves is noticed: the engine gets no more of its request."""
        body = await request.read()
        top = self._check(request.path, body)
        self._supervisor.serving()
        asked, given = FIELDS[request.path]
        answers = []
        with self._state.request(), noticing(request):
            for piece in pieces(body, asked, self._state.slots):
                engine = self._supervisor.serving()
                async with opened(self._splice, engine, request.path, piece.body) as answer:
                    try:
                        answers.append((piece, await answer.read()))
                    except DiedMidAnswer as e:
                        raise engine_died(e) from None
        try:
            whole = together(answers, given, top)
        except ValueError as e:
            raise engine_died(str(e)) from None
        self._state.count(counts_in(whole[:_EDGE] + whole[-_EDGE:]).prompt_tokens, 0, 0.0)
        return web.Response(body=whole, content_type="application/json")

    def _check(self, path: str, body: bytes) -> int | None:
        """How many results are wanted, where a request says so. Raises openai.BadBody."""
        fields = openai.fields(body)
        try:
            if path == "/v1/rerank":
                sampling.check_rerank(fields)
                return fields.get("top_n")
            sampling.check_embedding(fields, self._width)
        except sampling.Refused as e:
            raise openai.BadBody(e.message, e.code, e.param) from None
        return None
