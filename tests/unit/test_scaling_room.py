# SPDX-License-Identifier: GPL-3.0-or-later
"""Who makes room: never the busy or pinned, the least recently used first, no more than needed, nobody in vain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rbee.core.eviction import Resident, make_room

STAY = 30.0


def resident(name: str, size: float | None = 100.0, **changes: object) -> Resident:
    said: dict[str, object] = {"worker_id": name, "model": "m", "memory_mb": size, "last_used": 0.0, "stayed": 100.0}
    return Resident(**{**said, **changes})  # type: ignore[arg-type]


RESIDENTS = st.lists(
    st.builds(
        Resident,
        worker_id=st.uuids().map(str),
        model=st.just("m"),
        memory_mb=st.one_of(st.none(), st.integers(1, 1000).map(float)),
        last_used=st.integers(0, 50).map(float),
        stayed=st.sampled_from([0.0, 29.0, 30.0, 1000.0]),
        busy=st.booleans(),
        pinned=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda r: r.worker_id,
)
LACKING = st.one_of(st.none(), st.integers(0, 3000).map(float))


def test_the_least_recently_used_goes_first() -> None:
    a, b, c = (resident(x, last_used=at) for x, at in (("a", 3.0), ("b", 1.0), ("c", 2.0)))
    room = make_room([a, b, c], 150.0, STAY)
    assert (room.kind, room.evict) == ("evict", (b, c))
    assert make_room([a, b, c], None, STAY).evict == (b,)


def test_a_small_one_stays_when_a_later_one_is_enough_alone() -> None:
    small, big = resident("small", 10.0, last_used=1.0), resident("big", 500.0, last_used=2.0)
    assert make_room([small, big], 400.0, STAY).evict == (big,)
    assert make_room([small, big], 505.0, STAY).evict == (small, big)


def test_the_busy_are_waited_for_and_the_pinned_are_not() -> None:
    busy, pinned = resident("a", busy=True), resident("b", pinned=True)
    young = resident("c", 50.0, stayed=1.0)
    assert make_room([busy, pinned], 80.0, STAY).kind == "wait"
    assert make_room([pinned], 80.0, STAY).kind == "none"
    assert make_room([busy, young, pinned], 140.0, STAY).kind == "wait"
    assert make_room([busy, young, pinned], 200.0, STAY).kind == "none"
    assert make_room([], 1.0, STAY).kind == "none"


def test_it_is_told_who_holds_it() -> None:
    room = make_room(
        [
            resident("a", 1234.0, pinned=True),
            resident("b", None, busy=True, last_used=1.0),
            resident("c", stayed=1.0, last_used=2.0),
            resident("d", last_used=3.0),
        ],
        5000.0,
        STAY,
    )
    assert room.kind == "wait"  # nobody knows how much b holds
    assert room.held == (
        "a (m, 1,234 MB, always kept)",
        "b (m, busy)",
        "c (m, 100 MB, just started)",
        "d (m, 100 MB, idle)",
    )


@given(RESIDENTS, LACKING)
def test_never_the_busy_the_pinned_or_the_young(residents: list[Resident], lacking: float | None) -> None:
    room = make_room(residents, lacking, STAY)
    assert all(not r.busy and not r.pinned and r.stayed >= STAY for r in room.evict)
    assert bool(room.evict) == (room.kind == "evict")
    assert len(room.held) == len(residents)


@given(RESIDENTS, LACKING)
def test_it_is_enough_and_no_more_than_needed(residents: list[Resident], lacking: float | None) -> None:
    room = make_room(residents, lacking, STAY)
    if room.kind != "evict":
        return
    if lacking is None:
        assert len(room.evict) == 1
        return

    def enough(some: tuple[Resident, ...]) -> bool:
        return any(r.memory_mb is None for r in some) or sum(r.memory_mb or 0 for r in some) >= lacking

    assert enough(room.evict)
    for r in room.evict:
        without = tuple(x for x in room.evict if x is not r)
        assert not without or not enough(without)


@given(RESIDENTS, LACKING)
def test_nobody_goes_in_vain(residents: list[Resident], lacking: float | None) -> None:
    room = make_room(residents, lacking, STAY)
    if room.kind == "none" and lacking is not None:
        assert sum(r.memory_mb or 0 for r in residents if not r.pinned) < lacking or all(r.pinned for r in residents)
    if room.kind == "wait":
        assert any((r.busy or r.stayed < STAY) and not r.pinned for r in residents)
