# SPDX-License-Identifier: GPL-3.0-or-later
"""A queen for real clients: bee-tiny on the real engine, once to chat and once to embed, and a mock for the rest."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rbee.contracts.configs import KnownModel
from rbee.core.spec import WorkerOptions
from tests.support.mock_engine import MockEngine
from tests.support.queen import Client, beat, queen_config, queen_in
from tests.support.waiting import eventually
from tests.support.workers import ROOT, Running, running, worker_config

BEE = ROOT / "models" / "bee-tiny" / "bee-tiny-q8_0.gguf"
#: What bee-tiny says to it, greedily.
QUESTION = "What is rbee?"
_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/rerank", "/v1/messages")


@dataclass
class Fleet:
    """`url` is the base URL for OpenAI's clients. Models: bee-tiny (also as gpt-4o-mini), bee-vectors, mock; idle has
    no worker."""

    queen: Client
    chat: Running
    vectors: Running
    mock: MockEngine

    @property
    def url(self) -> str:
        return f"{self.queen.url}/v1"

    async def all_idle(self) -> None:
        """Until neither engine has anything to do; fails when it never comes to that."""

        async def idle() -> bool:
            found = [await w.engine_slots_busy() + w.daemon.state.active for w in (self.chat, self.vectors)]
            return not sum(found)

        await eventually(idle)


@contextlib.asynccontextmanager
async def fleet_in(root: Path) -> AsyncIterator[Fleet]:
    """All of it in this process, the engines in theirs."""
    config = queen_config(
        models=(KnownModel(name="bee-tiny"), KnownModel(name="idle")), aliases={"gpt-4o-mini": ("bee-tiny",)}
    )
    async with contextlib.AsyncExitStack() as stack:
        queen = await stack.enter_async_context(queen_in(root, config))
        chat = worker_config(
            BEE, worker_id="chat-1", model="bee-tiny", queen_url=queen.url,
            options=WorkerOptions(parallel=2, threads=1),
        )  # fmt: skip
        vectors = worker_config(
            BEE, worker_id="vectors-1", model="bee-vectors", queen_url=queen.url,
            options=WorkerOptions(parallel=2, threads=1, task="embed"),
        )  # fmt: skip
        first = await stack.enter_async_context(running(chat))
        second = await stack.enter_async_context(running(vectors))
        mock = await stack.enter_async_context(MockEngine())
        told = beat("mock-1", mock.port, model="mock", paths=_PATHS, capabilities=("tools", "vision"), slots=64)
        assert await queen.heartbeat(told) == 200
        await eventually(lambda: sum(w.status == "ready" for w in queen.queen.registry.workers.values()) == 3)
        yield Fleet(queen, first, second, mock)
