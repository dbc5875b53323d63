# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate with a real registry and router, and nothing behind them: slots, turns, and what cancelling does."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.contracts import openai
from rbee.contracts.configs import QueenConfig
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.core.errors import RbeeError, TooMany, Unavailable
from rbee.core.spec_queen import LimitsSpec
from rbee.daemons.queen.admission.clients import Client
from rbee.daemons.queen.admission.gate import Gate
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.routing.router import Router
from rbee.daemons.queen.scaling.starter import Starter

PEEK = openai.peek(b'{"model": "m", "messages": []}')


def beat(worker_id: str, **changes: Any) -> WorkerHeartbeat:
    said: dict[str, Any] = {
        "worker_id": worker_id,
        "hive_id": "h",
        "model": "m",
        "engine": "e",
        "worker_type": "cpu",
        "device": "cpu",
        "url": f"http://10.0.0.{worker_id[1:]}:9300",
        "status": "ready",
        "started_at": "2026-01-01T00:00:00Z",
    }
    return WorkerHeartbeat(**{**said, **changes})


class Room:
    """A gate and what it stands on."""

    def __init__(self, **limits: Any) -> None:
        config = QueenConfig(fleet="t", limits=LimitsSpec(**limits))
        self.registry = Registry(time.monotonic)
        self.router = Router(self.registry, config, time.monotonic)
        self.gate = Gate(self.registry, self.router, Starter(self.registry, config), config, time.monotonic)
        self.number = 0

    def asked(self, client: Client | None = None, models: tuple[str, ...] = ("m",), **changes: Any) -> Asked:
        self.number += 1
        said: dict[str, Any] = {
            "request_id": str(self.number),
            "path": "/v1/chat/completions",
            "name": models[0],
            "models": models,
            "peek": PEEK,
            "size": 30,
            "client": client or Client(),
            "headers": {},
            "arrived": 0.0,
            "ends": None,
        }
        asked = Asked(**{**said, **changes})
        self.gate.admit(asked)
        return asked

    @property
    def in_flight(self) -> int:
        return sum(w.in_flight for w in self.registry.workers.values())


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Who waits for ever fails."""

    async def bounded() -> None:
        await asyncio.wait_for(test(), 120)

    asyncio.run(bounded())


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_slot_is_handed_on_in_the_moment_it_is_free() -> None:
    async def test() -> None:
        room = Room()
        worker = room.registry.heartbeat(beat("w1"))
        assert worker is not None
        first, second = room.asked(), room.asked()
        assert room.gate.try_enter(first) is worker
        waiting = asyncio.ensure_future(room.gate.wait(second))
        await settle()
        room.gate.leave(first, worker, 1.0)
        assert worker.in_flight == 1  # there is no moment in which another could take it
        assert room.gate.try_enter(room.asked()) is None
        assert await waiting is worker

    run(test)


def test_who_is_cancelled_with_his_slot_in_hand_passes_it_on() -> None:
    async def test() -> None:
        room = Room()
        worker = room.registry.heartbeat(beat("w1"))
        assert worker is not None
        first = room.asked()
        assert room.gate.try_enter(first) is worker
        waiting = [asyncio.ensure_future(room.gate.wait(room.asked())) for _ in range(3)]
        await settle()
        room.gate.leave(first, worker, None)  # it is the first one's now, who does not know it yet
        waiting[0].cancel()
        await settle()
        assert waiting[0].cancelled()
        assert waiting[1].done()
        assert worker.in_flight == 1
        waiting[2].cancel()
        await settle()
        assert room.gate.depths() == {}

    run(test)


def test_cancelled_as_it_is_refused() -> None:
    async def test() -> None:
        room = Room(queue_timeout=0.01)
        worker = room.registry.heartbeat(beat("w1"))
        room.gate.try_enter(room.asked())
        heard: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))
        waiting = asyncio.ensure_future(room.gate.wait(room.asked()))
        await settle()
        ticket = next(iter(room.gate._tickets))
        await asyncio.wait([ticket.future])
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        del ticket, waiting
        await settle()
        assert heard == []
        assert worker is not None and worker.in_flight == 1

    run(test)


def test_one_that_comes_takes_no_slot_that_another_waits_for() -> None:
    """A slot that became free unheard: the first in the queue gets it, not the one that finds it."""

    async def test() -> None:
        room = Room()
        worker = room.registry.heartbeat(beat("w1", slots_busy=1))
        assert worker is not None
        first = asyncio.ensure_future(room.gate.wait(room.asked()))
        await settle()
        worker.foreign = 0  # nobody says so
        second = asyncio.ensure_future(room.gate.wait(room.asked()))
        await settle()
        assert first.done()
        assert not second.done()
        second.cancel()
        await settle()

    run(test)


def test_a_slot_that_became_free_unheard_is_found() -> None:
    async def test() -> None:
        room = Room()
        worker = room.registry.heartbeat(beat("w1", slots_busy=1))
        assert worker is not None
        waiting = asyncio.ensure_future(room.gate.wait(room.asked()))
        await settle()
        worker.foreign = 0
        assert await asyncio.wait_for(waiting, 10) is worker

    run(test)


def test_who_was_sent_back_is_first_again_and_needs_no_room() -> None:
    async def test() -> None:
        room = Room(queue=1)
        worker = room.registry.heartbeat(beat("w1"))
        assert worker is not None
        holder, again = room.asked(), room.asked()
        room.gate.try_enter(holder)
        first = asyncio.ensure_future(room.gate.wait(room.asked()))
        await settle()
        with pytest.raises(TooMany, match="1 requests wait"):
            await room.gate.wait(room.asked())
        again.tried["w9"] = "refused"
        returned = asyncio.ensure_future(room.gate.wait(again))
        await settle()
        assert room.gate.waiting("m") == 2
        room.gate.leave(holder, worker, None)
        assert await returned is worker
        first.cancel()
        await settle()

    run(test)


def test_an_alias_fills_one_line() -> None:
    """Who waits for the first model of an alias is in nobody's way at the second."""

    async def test() -> None:
        room = Room(queue=2)
        room.registry.heartbeat(beat("w1", model="m"))
        idle = room.registry.heartbeat(beat("w2", model="n"))
        room.gate.try_enter(room.asked())
        waiting = [asyncio.ensure_future(room.gate.wait(room.asked(models=("m", "n")))) for _ in range(2)]
        await settle()
        with pytest.raises(TooMany, match="2 requests wait"):
            await room.gate.wait(room.asked(models=("m", "n")))
        other = room.asked(models=("n",))
        assert (room.gate.try_enter(other) or await room.gate.wait(other)) is idle
        room.registry.heartbeat(beat("w1", model="m", status="stopping"))
        room.gate.leave(other, room.registry.workers["w2"], None)
        assert await waiting[0] is idle
        waiting[1].cancel()
        await settle()
        assert room.gate.depths() == {}

    run(test)


def test_a_free_slot_of_a_full_line_whose_requests_cannot_use_it() -> None:
    async def test() -> None:
        room = Room(queue=1)
        room.registry.label({"eu": {"region": "eu"}})
        worker = room.registry.heartbeat(beat("w1"))
        room.registry.heartbeat(beat("w2", hive_id="eu"))
        room.registry.heartbeat(beat("w3", model="n", status="stopping"))
        eu = Client(name="eu", require={"region": "eu"})
        assert room.gate.try_enter(room.asked(eu)) is room.registry.workers["w2"]
        waiting = asyncio.ensure_future(room.gate.wait(room.asked(eu)))
        passing = room.asked(models=("n", "m"))
        await settle()
        assert room.gate.try_enter(passing) is None
        assert await asyncio.wait_for(room.gate.wait(passing), 10) is worker
        with pytest.raises(TooMany):
            await room.gate.wait(room.asked(models=("n", "m")))
        waiting.cancel()
        await settle()
        assert (room.gate.depths(), room.in_flight) == ({}, 2)

    run(test)


def test_an_estimate_for_each_client() -> None:
    """A greedy one's wait is long, another's short: only the first is told that his deadline cannot be met."""

    async def test() -> None:
        room = Room()
        worker = room.registry.heartbeat(beat("w1"))
        assert worker is not None
        greedy, other = Client(name="greedy"), Client(name="other")
        measured, holder = room.asked(), room.asked()
        room.gate.try_enter(measured)
        room.gate.leave(measured, worker, 1.0)
        room.gate.try_enter(holder)
        waiting = [asyncio.ensure_future(room.gate.wait(room.asked(greedy))) for _ in range(30)]
        await settle()
        ends = time.monotonic() + 10.0
        with pytest.raises(TooMany) as refused:
            await room.gate.wait(room.asked(greedy, ends=ends))
        assert refused.value.code == "deadline_unmeetable"
        assert refused.value.retry_after == pytest.approx(31.0)
        waiting.append(asyncio.ensure_future(room.gate.wait(room.asked(other, ends=ends))))
        await settle()
        assert not waiting[-1].done()
        room.gate.leave(holder, worker, None)
        assert await waiting[0] is worker
        room.gate.leave(room.asked(), worker, None)
        assert await waiting[-1] is worker
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(test)


def test_ten_thousand_wait_and_each_is_served_in_its_turn() -> None:
    async def test() -> None:
        room = Room(queue=20_000)
        worker = room.registry.heartbeat(beat("w1"))
        assert worker is not None
        clients = [Client(name=f"c{n}") for n in range(100)]
        holder = room.asked()
        room.gate.try_enter(holder)
        order: list[int] = []

        async def one(number: int) -> None:
            asked = room.asked(clients[number % 100])
            found = await room.gate.wait(asked)
            order.append(number)
            room.gate.leave(asked, found, 0.001)

        tasks = [asyncio.ensure_future(one(n)) for n in range(10_000)]
        await settle()
        assert room.gate.waiting("m") == 10_000
        room.gate.leave(holder, worker, None)
        await asyncio.gather(*tasks)
        assert order == list(range(10_000))
        assert worker.in_flight == 0

    run(test)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(
        st.sampled_from(["ask", "ask", "ask", "end", "end", "cancel", "both", "die", "beat"]), min_size=40, max_size=200
    ),
)
def test_whatever_happens_no_slot_is_lost_and_none_is_free_that_somebody_waits_for(seed: int, steps: list[str]) -> None:
    """Requests for three models and an alias of two, of three clients, with workers that come, die and are told of."""

    async def test() -> None:
        chance = random.Random(seed)
        room = Room(queue=chance.choice((1, 3, 40)))
        names = [("m",), ("n",), ("o",), ("m", "n"), ("o", "n", "m")]
        workers = {f"w{n}": "mno"[n % 3] for n in range(1, 6)}
        for worker_id, model in workers.items():
            room.registry.heartbeat(beat(worker_id, model=model, slots=chance.randint(1, 3)))
        running: dict[asyncio.Task[Worker], Asked] = {}
        refused = 0

        def end(task: asyncio.Task[Worker]) -> None:
            nonlocal refused
            asked = running.pop(task)
            if task.cancelled():
                return
            if isinstance(error := task.exception(), RbeeError):
                assert isinstance(error, Unavailable)
                refused += 1
                return
            room.gate.leave(asked, task.result(), 1.0)
            room.gate.done(asked)

        async def way(asked: Asked) -> Worker:
            return room.gate.try_enter(asked) or await room.gate.wait(asked)

        for step in steps:
            done = [t for t in running if t.done()]
            waiting = [t for t in running if not t.done()]
            if step == "ask":
                client = Client(name=chance.choice("abc"), weight=chance.randint(1, 3))
                asked = room.asked(client, chance.choice(names))
                running[asyncio.ensure_future(way(asked))] = asked
            elif step in ("end", "both") and done:
                end(chance.choice(done))
            if step in ("cancel", "both") and waiting:
                chance.choice(waiting).cancel()
            elif step in ("die", "beat"):
                worker_id = chance.choice(list(workers))
                status = chance.choice(["ready", "busy", "stopping"]) if step == "die" else "ready"
                slots = chance.randint(1, 3)
                room.registry.heartbeat(beat(worker_id, model=workers[worker_id], status=status, slots=slots))
            if chance.random() < 0.7:
                await settle()
                for ticket in room.gate._tickets:
                    assert room.router.choose(ticket.asked) is None
        await settle()
        assert room.in_flight == sum(1 for t in running if t.done() and not t.cancelled() and not t.exception())
        for task in list(running):
            task.cancel()
            await settle()
            end(task)
        assert room.in_flight == 0
        assert room.gate.depths() == {}
        assert not room.gate._tickets

    run(test)
