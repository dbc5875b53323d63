# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import random
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.core.fair_queue import BATCH_EVERY, FairQueue, Line


def take(queue: FairQueue[int]) -> tuple[str, int]:
    key, item = next(queue.order())
    queue.serve(key, item)
    return key, item


def keys(queue: FairQueue[int], many: int) -> str:
    return "".join(take(queue)[0] for _ in range(many))


def test_each_client_in_its_turn() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(6):
        queue.push("a", item)
    queue.push("b", 10)
    queue.push("b", 11)
    assert keys(queue, 8) == "ababaaaa"
    assert len(queue) == 0


def test_by_weight() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(40):
        queue.push("a", item, 3)
        queue.push("b", 100 + item, 1)
    served = Counter(keys(queue, 40))
    assert served == {"a": 30, "b": 10}


def test_a_weight_may_change_while_they_wait() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(40):
        queue.push("a", item, 1)
        queue.push("b", 100 + item, 1)
    queue.push("a", 40, 4)
    assert queue.ahead("c", 1) == 5
    assert Counter(keys(queue, 40))["a"] > 30


def test_the_front_is_for_who_had_a_turn_already() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.push("a", 1)
    queue.push("a", 2, front=True)
    assert [take(queue)[1], take(queue)[1]] == [2, 1]


def test_one_at_a_time_is_no_advantage() -> None:
    """A client that asks again whenever it was served gets no more than one that asks for all at once."""
    queue: FairQueue[int] = FairQueue()
    for item in range(100):
        queue.push("a", item)
    queue.push("b", 1000)
    served = Counter[str]()
    for turn in range(60):
        key, _ = take(queue)
        served[key] += 1
        if key == "b":
            queue.push("b", 1001 + turn)
    assert abs(served["a"] - served["b"]) <= 1


def test_what_left_costs_nothing() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(100):
        queue.push("a", item)
        queue.push("b", 1000 + item)
    for item in range(99):
        assert queue.discard("a", item)
    assert not queue.discard("a", 0)
    assert not queue.discard("nobody", 0)
    assert sorted(keys(queue, 2)) == ["a", "b"]


def test_the_first_may_leave_before_its_turn() -> None:
    queue: FairQueue[int] = FairQueue()
    for item, key in enumerate("abc"):
        queue.push(key, item)
    assert queue.discard("a", 0)
    assert queue.discard("b", 1)
    assert take(queue) == ("c", 2)
    assert list(queue.order()) == []


def test_who_has_most_makes_room_for_who_has_less() -> None:
    queue: FairQueue[int] = FairQueue()
    assert queue.crowded("b") is None
    assert queue.newest_of_most() is None
    for item in range(10):
        queue.push("a", item)
    assert queue.crowded("a") is None
    for number in range(6):
        victim = queue.crowded("b")
        assert victim == (None if number == 5 else 9 - number)
        if victim is not None:
            queue.discard("a", victim)
            queue.push("b", 100 + number)
    assert queue.crowded("c", 1) == 4
    assert queue.newest_of_most() == 4


def test_room_by_weight() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(6):
        queue.push("a", item, 3)
    assert queue.crowded("b", 1) == 5
    queue.push("b", 10, 1)
    assert queue.crowded("b", 1) is None


def test_of_a_full_line_batch_keeps_its_turns_and_no_more() -> None:
    line: Line[int] = Line()
    assert line.crowded(False, "a") is None
    for item in range(BATCH_EVERY * 2):
        line.of(True).push("cron", item)
    assert line.crowded(False, "a") == BATCH_EVERY * 2 - 1
    for item in range(BATCH_EVERY * 2 - 2):
        line.of(True).discard("cron", line.crowded(False, "a") or 0)
        line.of(False).push("a", 100 + item)
    assert line.crowded(False, "a") is None
    assert line.crowded(True, "cron") is None
    line.of(True).discard("cron", 0)
    line.of(False).push("a", 999)
    assert line.crowded(True, "cron") == 999


def test_turns_are_not_saved_up() -> None:
    """Who could not use its turns for long, then can, does not get them all at once."""
    queue: FairQueue[int] = FairQueue()
    for item in range(50):
        queue.push("stuck", item)
        queue.push("able", 1000 + item)
    for _ in range(20):  # `stuck` cannot go: others are served past it
        key, item = next((k, i) for k, i in queue.order() if k != "stuck")
        queue.serve(key, item)
    queue.push("new", 2000)
    assert "new" in keys(queue, 3)


def test_order_names_all_and_changes_nothing() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(5):
        queue.push("ab"[item % 2], item)
    assert list(queue.order()) == [("a", 0), ("a", 2), ("a", 4), ("b", 1), ("b", 3)]
    assert list(FairQueue[int]().order()) == []
    assert len(queue) == 5


def test_ahead_tells_about_where_one_would_stand() -> None:
    queue: FairQueue[int] = FairQueue()
    assert queue.ahead("a") == 0
    for item in range(100):
        queue.push("a", item)
    assert queue.ahead("a") == 100
    assert queue.ahead("b") == 1
    queue.push("b", 1000)
    assert queue.ahead("b") == 3
    assert queue.ahead("c", 2) == 1
    assert queue.ahead("a") == 101


def test_many_that_come_and_leave_take_no_memory() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.push("here", -1)
    for item in range(10_000):
        queue.push(f"k{item}", item)
        queue.push(f"k{item}", -2 - item)
        queue.serve(f"k{item}", item)
        queue.discard(f"k{item}", -2 - item)
    for item in range(1000):
        queue.push("gone", item)
        queue.discard("gone", item)
    assert len(queue._heap) < 300
    assert len(queue._debts) < 2100


@given(st.lists(st.tuples(st.sampled_from(["push", "front", "take", "late", "drop"]), st.integers(0, 4)), max_size=200))
def test_nothing_is_lost_nor_doubled_and_a_client_keeps_its_order(steps: list[tuple[str, int]]) -> None:
    queue: FairQueue[int] = FairQueue()
    model: dict[str, deque[int]] = {}
    for number, (step, who) in enumerate(steps):
        key = f"k{who}"
        line = model.setdefault(key, deque())
        if step in ("push", "front"):
            queue.push(key, number, who + 1, front=step == "front")
            (line.appendleft if step == "front" else line.append)(number)
        elif step == "take" and len(queue):
            key, item = take(queue)
            assert model[key].popleft() == item
        elif step == "late" and line:  # past those that are before it
            queue.serve(key, line.popleft())
        elif step == "drop" and line:
            item = line[len(line) // 2]
            line.remove(item)
            assert queue.discard(key, item)
        assert len(queue) == sum(map(len, model.values()))
        assert sorted(queue.order()) == sorted((k, i) for k, items in model.items() for i in items)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 60), st.integers(1, 5)), min_size=1),
    st.integers(0, 50),
    st.integers(0, 2**32),
)
def test_a_new_client_waits_for_one_of_each_other(others: dict[str, tuple[int, int]], before: int, seed: int) -> None:
    """At most `weight` of each other client go before the first of a new one, however many wait."""
    queue: FairQueue[int] = FairQueue()
    items = [(key, weight) for key, (many, weight) in others.items() for _ in range(many)]
    random.Random(seed).shuffle(items)
    for number, (key, weight) in enumerate(items):
        queue.push(key, number, weight)
    for _ in range(min(before, len(items) - 1)):
        take(queue)
    queue.push("new", -1)
    ahead = Counter[str]()
    while (key := take(queue)[0]) != "new":
        ahead[key] += 1
    assert all(many <= others[key][1] for key, many in ahead.items())


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers(1, 200))
def test_shares_are_those_of_the_weights(weights: list[int], turns: int) -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(turns + 1):
        for key, weight in enumerate(weights):
            queue.push(str(key), number * 10 + key, weight)
    served = Counter(take(queue)[0] for _ in range(turns))
    for a, wa in enumerate(weights):
        for b, wb in enumerate(weights):
            assert abs(served[str(a)] / wa - served[str(b)] / wb) <= 1 / wa + 1 / wb + 1e-9


def from_line(line: Line[int]) -> bool:
    batch, key, item = next(line.order())
    line.serve(batch, key, item)
    return batch


def test_batch_waits_behind_all_others_but_not_for_ever() -> None:
    line: Line[int] = Line()
    for item in range(100):
        line.of(False).push("a", item)
        line.of(True).push("b", 1000 + item)
    served = [from_line(line) for _ in range(2 * BATCH_EVERY)]
    assert [n for n, batch in enumerate(served, 1) if batch] == [BATCH_EVERY, 2 * BATCH_EVERY]
    assert len(line) == 200 - 2 * BATCH_EVERY


def test_what_was_served_before_batch_came_does_not_count() -> None:
    line: Line[int] = Line()
    for item in range(100):
        line.of(False).push("a", item)
    assert not any(from_line(line) for _ in range(50))
    line.of(True).push("b", 1000)
    assert [from_line(line) for _ in range(BATCH_EVERY)].index(True) == BATCH_EVERY - 1


def test_ahead_of_batch_are_all_others() -> None:
    line: Line[int] = Line()
    for item in range(10):
        line.of(False).push("a", item)
        line.of(True).push("a", 100 + item)
    assert line.ahead(False, "b") == 1
    assert line.ahead(True, "b") == 11
    assert [batch for batch, _, _ in line.order()] == [False] * 10 + [True] * 10


@pytest.mark.parametrize("many", [1_000, 100_000])
def test_a_long_queue_is_emptied_in_turn(many: int) -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(many):
        queue.push(f"k{item % 100}", item)
    assert [take(queue)[1] for _ in range(many)] == list(range(many))
