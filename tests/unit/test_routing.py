# SPDX-License-Identifier: GPL-3.0-or-later
"""Routing: never to whom it must not go, to the same one whichever way it is decided, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.core.deciding import Decision, route
from rbee.core.routing import (
    AFFINE_BOUND,
    NOTHING,
    ROUTABLE,
    WARM,
    Needs,
    able,
    lacks,
    models_for,
    pick,
    reasons,
    required,
    unfit,
    why_not,
)

NOW, STALE = 1000.0, 90.0
CHAT = "/v1/chat/completions"


@dataclass
class W:
    worker_id: str = "w"
    status: str = "ready"
    slots: int = 4
    in_flight: int = 0
    foreign: int = 0
    last_seen: float = NOW
    unreachable: str | None = None
    picked: int = 0
    reason: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    context_length: int = 0
    warm: float = 0.0


def chosen(*workers: W, needs: Needs = NOTHING, tried: tuple[str, ...] = (), affine: W | None = None) -> str | None:
    found = pick(workers, needs, needs.likely, NOW, STALE, tried, affine)
    return found.worker_id if found is not None else None


def decided(*workers: W, needs: Needs = NOTHING, **more: Any) -> Decision[W]:
    return route({"m": workers}, needs, NOW, STALE, **more)


def excluded(decision: Decision[W]) -> dict[str, str | None]:
    return {v.worker.worker_id: v.excluded for v in decision.verdicts}


def test_the_smallest_share_of_slots_wins() -> None:
    assert chosen(W("a", in_flight=2, slots=4), W("b", in_flight=3, slots=16)) == "b"
    assert chosen(W("a", in_flight=1, foreign=1, slots=4), W("b", in_flight=1, slots=4)) == "b"
    assert decided(W("a", in_flight=2), W("b", in_flight=1)).reason == "The least busy of 2."


def test_equals_take_turns() -> None:
    assert chosen(W("a", picked=7), W("b", picked=3), W("c", picked=9)) == "b"
    assert chosen(W("a"), W("b")) == "a"
    assert decided(W("a", picked=7), W("b", picked=3)).reason == "Asked longest ago of 2 equals."


def test_only_free_slots_count() -> None:
    full = W("a", status="busy", in_flight=3, foreign=1)
    assert chosen(full, W("b", slots=0)) is None
    assert able(full, NOTHING, 0, NOW - STALE)
    decision = decided(full)
    assert (decision.chosen, decision.able) == (None, True)
    assert decision.reason == "Every worker that could serve it is busy."
    assert excluded(decision) == {"a": "no free slot (4 of 4 taken)"}


def test_one_that_has_answered_before_goes_before_one_that_has_not() -> None:
    assert chosen(W("a"), W("b", warm=WARM, picked=5)) == "b"
    assert chosen(W("a"), W("b", warm=WARM, in_flight=1)) == "a"
    assert decided(W("a"), W("b", warm=WARM)).reason.startswith("It has answered before, which others have not")


@pytest.mark.parametrize(("busy", "wins"), [(0, True), (2, True), (3, False), (4, False)])
def test_the_affine_worker_wins_unless_it_is_too_busy(busy: int, wins: bool) -> None:
    a, b = W("a"), W("b", in_flight=busy)
    assert chosen(a, b, affine=b) == ("b" if wins else "a")
    decision = decided(a, b, affine=("b",))
    assert decision.chosen is (b if wins else a)
    if wins:
        assert decision.reason == "It answered for the same leading messages before; the best of 2."


def test_an_affine_worker_that_cannot_is_no_help() -> None:
    a = W("a")
    for b in (W("b", unreachable="x"), W("b", status="dead"), W("b", last_seen=0), W("b", paths=("/v1/rerank",))):
        assert chosen(a, b, needs=Needs(CHAT), affine=b) == "a"
    b = W("b")
    assert chosen(a, b, affine=b, tried=("b",)) == "a"


NEEDS = [
    (W("w", paths=("/v1/embeddings",)), Needs(CHAT), f"does not serve {CHAT}"),
    (W("w", paths=(CHAT,)), Needs(CHAT), None),
    (W("w"), Needs(CHAT, tools=True, images=True), None),
    (W("w", capabilities=("vision",)), Needs(CHAT, tools=True, images=True), "has no tools"),
    (W("w", capabilities=("other",)), Needs(CHAT, tools=True, images=True), "has no tools and no vision"),
    (W("w", labels={"a": "b"}), Needs(require=(("a", "b"),)), None),
    (W("w", labels={"a": "c"}), Needs(require=(("a", "b"),)), "a=b is required, its hive has a=c"),
    (W("w"), Needs(require=(("a", "b"),)), "a=b is required, its hive has no label a"),
    (W("w", context_length=4096), Needs(CHAT, size=8_000_000),
     "context of 4096 tokens is too short: the prompt has 31250 or more"),
    (W("w", context_length=4096), Needs("/v1/embeddings", size=8_000_000), None),
    (W("w", context_length=4096), Needs("/v1/completions", size=8_000_000), None),
    (W("w", context_length=4096), Needs(CHAT, size=8_000_000, images=True), None),
    (W("w", context_length=0), Needs(CHAT, size=8_000_000), None),
]  # fmt: skip


@pytest.mark.parametrize(("worker", "needs", "why"), NEEDS)
def test_what_a_request_needs(worker: W, needs: Needs, why: str | None) -> None:
    assert lacks(worker, needs, needs.least) == why
    assert (pick([worker], needs, needs.least, NOW, STALE) is None) == (why is not None)
    assert excluded(decided(worker, needs=needs)) == {"w": why}


def test_a_prompt_that_likely_does_not_fit_goes_where_it_does() -> None:
    needs = Needs(CHAT, size=40_000)
    small, large = W("small", context_length=4096), W("large", context_length=32_768, in_flight=3)
    assert decided(small, large, needs=needs).chosen is large
    assert decided(small, needs=needs).chosen is small
    # The one that fits is waited for.
    large.in_flight = 4
    decision = decided(small, large, needs=needs)
    assert (decision.chosen, decision.able) == (None, True)
    # Another model of the alias that fits goes before one that does not.
    later = route({"m": [small], "n": [W("n", context_length=32_768)]}, needs, NOW, STALE)
    assert later.chosen is not None
    assert later.chosen.worker_id == "n"


def test_why_nobody_answers_is_said() -> None:
    workers = [
        W("a", status="starting"),
        W("b", status="failed", reason="out of memory"),
        W("c", last_seen=NOW - 100),
        W("d", unreachable="unreachable: refused"),
        W("e"),
        W("g", labels={"region": "us"}),
    ]
    needs = Needs(require=(("region", "eu"),))
    said = (
        "a: starting",
        "b: failed: out of memory",
        "c: stale: silent for 100 s",
        "d: unreachable: refused",
        "e: failed this request",
        "g: region=eu is required, its hive has region=us",
    )
    tried = {"e": "failed this request", "d": "x"}
    assert reasons([*workers, W("f", labels={"region": "eu"})], NOW, STALE, tried, needs) == said
    decision = decided(*workers, needs=needs, tried=tried)
    assert tuple(f"{w}: {why}" for w, why in excluded(decision).items()) == said
    assert (decision.reason, decision.able) == ("No worker can serve it.", False)
    assert decided().reason == "No worker has its model."
    assert pick(workers, needs, 0, NOW, STALE, tried) is None


def test_a_later_model_is_for_when_nobody_has_an_earlier_one() -> None:
    a, b = W("a", in_flight=4), W("b")
    decision = route({"first": [a], "second": [b]}, NOTHING, NOW, STALE)
    assert decision.chosen is None
    assert excluded(decision)["b"] == "is of another model, first is served first"
    a.unreachable = "gone"
    decision = route({"first": [a], "second": [b]}, NOTHING, NOW, STALE)
    assert decision.chosen is b
    assert decision.reason == "The only one that can."
    assert route({"second": [b]}, NOTHING, NOW, STALE).reason == "The only one of its model."


class Judge:
    """Policies by a table: what they exclude, what they add."""

    def __init__(self, out: Mapping[str, str] | None = None, scores: Mapping[str, float] | None = None) -> None:
        self.out, self.scores = out or {}, scores or {}

    def excluded(self, workers: Any) -> dict[int, str]:
        return {i: self.out[w.worker_id] for i, (w, _, _) in enumerate(workers) if w.worker_id in self.out}

    def terms(self, workers: Any) -> list[dict[str, float]]:
        return [{"mine": self.scores.get(w.worker_id, 0.0)} for w, _, _ in workers]


def test_policies_leave_out_and_add_to_the_score() -> None:
    a, b = W("a"), W("b", in_flight=3)
    decision = decided(a, b, judge=Judge(scores={"b": 5.0}))
    assert decision.chosen is b
    assert decision.reason == "By the policy 'mine' the best of 2."
    assert decision.verdicts[1].terms == {"load": -0.75, "mine": 5.0}
    assert decision.verdicts[1].score == 4.25
    decision = decided(a, b, judge=Judge(out={"a": "p", "b": "p"}))
    assert excluded(decision) == dict.fromkeys("ab", "left out by the policy 'p'")
    assert not decision.able
    # A score for what others have more of.
    mixed = decided(
        W("a", warm=WARM), W("b"), W("c", in_flight=1), judge=Judge(scores={"a": -1.0, "b": -1.0, "c": 0.0})
    )
    assert mixed.reason == "By the policy 'mine' the best of 3."


def test_a_choice_between_several_is_told_as_far_as_is_known() -> None:
    assert decided(W("a", in_flight=1), W("b"), unseen=5).reason == "The least busy of 7 or fewer."
    assert decided(W("a"), unseen=1).reason == "Asked longest ago of 2 or fewer equals."
    # Neither term alone is ahead of all others.
    three = [W("a", in_flight=1), W("b"), W("c", in_flight=2)]
    judge = Judge(scores={"a": 0.5, "b": 0.0, "c": 0.6})
    assert decided(*three, judge=judge).reason == "The greatest score of 3."


def test_labels_that_are_required() -> None:
    assert required("region=eu-west, power = quiet,,", "region=eu-west") == (("region", "eu-west"), ("power", "quiet"))
    assert required("") == ()
    for wrong in ("region", "=x", "region="):
        with pytest.raises(ValueError, match="is not LABEL=VALUE"):
            required(wrong)
    with pytest.raises(ValueError, match="at most 16"):
        required(",".join(f"a{i}=b" for i in range(17)))


@st.composite
def some(draw: st.DrawFn) -> list[W]:
    count = draw(st.integers(0, 8))
    return [
        W(
            f"w{i}",
            status=draw(st.sampled_from(["ready", "ready", "busy", "starting", "stopping", "dead", "failed"])),
            slots=draw(st.integers(0, 8)),
            in_flight=draw(st.integers(0, 8)),
            foreign=draw(st.integers(0, 2)),
            last_seen=NOW - draw(st.sampled_from([0.0, 1.0, STALE, STALE + 1, 300.0])),
            unreachable=draw(st.sampled_from([None, None, None, "refused"])),
            picked=draw(st.integers(0, 5)),
            labels=draw(st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["1", "2"]))),
            paths=draw(st.sampled_from([(), (), (CHAT,), ("/v1/embeddings",)])),
            capabilities=draw(st.sampled_from([(), (), ("tools",), ("tools", "vision")])),
            context_length=draw(st.sampled_from([0, 0, 512, 8192])),
            warm=draw(st.sampled_from([0.0, WARM])),
        )
        for i in range(count)
    ]


REQUESTS = st.builds(
    Needs,
    st.sampled_from([CHAT, "/v1/embeddings"]),
    size=st.sampled_from([0, 1000, 10_000, 200_000]),
    tools=st.booleans(),
    images=st.booleans(),
    require=st.sampled_from([(), (), (("a", "1"),), (("a", "1"), ("b", "2"))]),
)


@given(some(), REQUESTS, st.sets(st.sampled_from([f"w{i}" for i in range(8)])), st.integers(0, 9))
def test_never_one_that_cannot_answer_and_never_none_when_one_can(
    workers: list[W], needs: Needs, tried: set[str], favourite: int
) -> None:
    affine = workers[favourite] if favourite < len(workers) else None
    found = pick(workers, needs, needs.least, NOW, STALE, tried, affine)
    could = [
        w for w in workers if able(w, needs, needs.least, NOW - STALE, tried) and w.in_flight + w.foreign < w.slots
    ]
    assert (found is None) == (not could)
    if found is None:
        return
    assert found in could
    assert found.status in ROUTABLE
    assert why_not(found, NOW, STALE) is None
    assert lacks(found, needs, needs.least) is None
    assert all(found.labels.get(key) == value for key, value in needs.require)
    load = (found.in_flight + found.foreign) / found.slots - found.warm
    least = min((w.in_flight + w.foreign) / w.slots - w.warm for w in could)
    assert load <= least + (AFFINE_BOUND if found is affine else 0.0)


@given(some(), REQUESTS, st.sets(st.sampled_from([f"w{i}" for i in range(8)])), st.integers(0, 9))
def test_the_quick_way_and_the_explained_one_come_to_the_same(
    workers: list[W], needs: Needs, tried: set[str], favourite: int
) -> None:
    affine = workers[favourite] if favourite < len(workers) else None
    quick = pick(workers, needs, needs.likely, NOW, STALE, tried, affine)
    fits = any(able(w, needs, needs.likely, NOW - STALE, tried) for w in workers)
    if quick is None and not fits:
        quick = pick(workers, needs, needs.least, NOW, STALE, tried, affine)
    ids = (affine.worker_id,) if affine is not None else ()
    told = dict.fromkeys(tried, "tried")
    slow = route({"m": workers}, needs, NOW, STALE, tried=told, affine=ids)
    assert slow.chosen is quick
    assert slow == route({"m": workers}, needs, NOW, STALE, tried=told, affine=ids)
    assert slow.able == any(able(w, needs, needs.least, NOW - STALE, tried) for w in workers)
    assert all((v.excluded is None) == bool(v.terms) for v in slow.verdicts)
    assert slow.reason.endswith(".")


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


def test_what_no_worker_will_ever_answer() -> None:
    embeds = W("e", paths=("/v1/embeddings",))
    assert unfit([embeds], Needs(CHAT)) == ("unsupported_endpoint", f"does not serve {CHAT}")
    blind = W("b", paths=(CHAT,), capabilities=("tools",), status="starting")
    assert unfit([embeds, blind], Needs(CHAT, images=True)) == ("not_supported", "has no vision")
    short = W("s", paths=(CHAT,), context_length=10)
    code, words = unfit([embeds, short], Needs(CHAT, size=10**6)) or ("", "")
    assert code == "context_length_exceeded"
    assert "has a context of 10 tokens" in words
    # One could, or may turn out to: nothing is known of it yet.
    assert unfit([embeds, short], Needs(CHAT)) is None
    assert unfit([embeds, W("new", status="dead")], Needs(CHAT, images=True)) is None
    assert unfit([], Needs(CHAT)) is None
