# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from rbee.core.routing import ROUTABLE, models_for, reasons, route, why_not

NOW, STALE = 1000.0, 90.0


@dataclass
class W:
    worker_id: str = "w"
    status: str = "ready"
    slots: int = 4
    busy: int = 0
    last_seen: float = NOW
    unreachable: str | None = None
    picked: int = 0
    reason: str | None = None


def pick(*workers: W, tried: tuple[str, ...] = ()) -> str | None:
    chosen = route(workers, NOW, STALE, tried)
    return chosen.worker_id if chosen is not None else None


def test_the_smallest_share_of_slots_wins() -> None:
    assert pick(W("a", busy=2, slots=4), W("b", busy=3, slots=16)) == "b"
    assert pick(W("a", busy=1, slots=0), W("b", busy=1, slots=2)) == "b"


def test_equals_take_turns() -> None:
    assert pick(W("a", picked=7), W("b", picked=3), W("c", picked=9)) == "b"
    assert pick(W("a"), W("b")) == "a"


def test_a_busy_worker_still_gets_requests_when_there_is_no_other() -> None:
    assert pick(W("a", status="busy", busy=9)) == "a"


def test_why_nobody_answers_is_said() -> None:
    workers = [
        W("a", status="starting"),
        W("b", status="failed", reason="out of memory"),
        W("c", last_seen=NOW - 100),
        W("d", unreachable="unreachable: refused"),
        W("e"),
    ]
    assert route(workers, NOW, STALE, ("e", "d")) is None
    assert reasons([*workers, W("f")], NOW, STALE, {"e": "failed this request", "d": "x"}) == (
        "a: starting",
        "b: failed: out of memory",
        "c: stale: silent for 100 s",
        "d: unreachable: refused",
        "e: failed this request",
    )


@st.composite
def some(draw: st.DrawFn) -> list[W]:
    count = draw(st.integers(0, 8))
    return [
        W(
            f"w{i}",
            status=draw(st.sampled_from(["ready", "busy", "starting", "stopping", "dead", "failed"])),
            slots=draw(st.integers(0, 8)),
            busy=draw(st.integers(0, 20)),
            last_seen=NOW - draw(st.floats(0, 300)),
            unreachable=draw(st.sampled_from([None, None, "refused"])),
            picked=draw(st.integers(0, 5)),
        )
        for i in range(count)
    ]


@given(some(), st.sets(st.sampled_from([f"w{i}" for i in range(8)])))
def test_never_one_that_cannot_answer_and_never_none_when_one_can(workers: list[W], tried: set[str]) -> None:
    chosen = route(workers, NOW, STALE, tried)
    able = [w for w in workers if why_not(w, NOW, STALE) is None and w.worker_id not in tried]
    if chosen is None:
        assert not able
        return
    assert chosen in able
    assert chosen.status in ROUTABLE
    assert NOW - chosen.last_seen <= STALE
    assert all(chosen.busy / max(chosen.slots, 1) <= w.busy / max(w.slots, 1) for w in able)


def test_names_and_aliases() -> None:
    aliases = {
        "gpt": ("big", "small"),
        "deep": ("gpt", "tiny"),
        "loop": ("loop2",),
        "loop2": ("loop", "big"),
        "big": ("x",),
    }
    known = {"big", "small"}
    assert models_for("big", aliases, known) == ("big",)
    assert models_for("gpt", aliases, known) == ("big", "small")
    assert models_for("deep", aliases, known) == ("big", "small", "tiny")
    assert models_for("loop", aliases, known) == ("big",)
    assert models_for("none", aliases, known) == ()
