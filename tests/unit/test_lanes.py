# SPDX-License-Identifier: GPL-3.0-or-later
"""Lanes: never more than the limit, first come first served, nobody forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.contracts import codec, defaults
from rbee.contracts.operations import OPERATIONS
from rbee.core.errors import Unavailable
from rbee.daemons.lanes import Lanes


@given(st.integers(1, 4), st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=60))
def test_the_limit_holds_and_all_have_their_turn_in_order(limit: int, steps: list[int | None]) -> None:
    lanes = Lanes({"slow": limit}, 1)
    running: list[str] = []
    waiting: list[str] = []
    for n, step in enumerate(steps):
        both = running + waiting
        if step is None or not both:
            place = lanes.enter("slow", str(n))
            (waiting if place else running).append(str(n))
            assert place == len(waiting)
        else:
            job = both[step % len(both)]
            following = lanes.leave("slow", job)
            if job in waiting:
                waiting.remove(job)
                assert following is None
            else:
                running.remove(job)
                assert following == (waiting[0] if waiting else None)
                if following is not None:
                    running.append(waiting.pop(0))
        assert len(running) <= limit
        assert not waiting or len(running) == limit
        assert lanes.counts()["slow"] == (len(running), len(waiting))


def test_each_lane_has_its_own_limit_and_the_others_the_default() -> None:
    lanes = Lanes({"slow": 1}, 2, queue=1)
    assert [lanes.enter("slow", "a"), lanes.enter("slow", "b")] == [0, 1]
    with pytest.raises(Unavailable):
        lanes.enter("slow", "c")
    assert [lanes.enter("quick", x) for x in "de"] == [0, 0]


def test_every_limit_is_of_a_lane_that_a_hives_operation_has_and_slow_ones_are_apart() -> None:
    of = {o.name: o.lane for o in OPERATIONS.values() if "hive" in o.served_by}
    assert set(defaults.LANES) <= set(of.values())
    alone = {"WorkerSpawn", "WorkerRestart", "ModelDownload", "ModelVerify", "ModelPreload", "WorkerLogs"}
    quick = {lane for name, lane in of.items() if name not in alone and not name.endswith("Batch")}
    assert quick.isdisjoint(defaults.LANES)


def test_json_made_before_is_put_where_it_stands() -> None:
    assert codec.encode({"a": codec.embedded(b'{"b":[1,2]}')}) == b'{"a":{"b":[1,2]}}'
    assert [bytes(codec.json_of(x)) for x in (codec.embedded(b"[1,2]"), {"b": 1})] == [b"[1,2]", b'{"b":1}']
    assert codec.fields(b'{"a": [1, 2], "b":null}') == {"a": b"[1, 2]", "b": b"null"}
    for wrong in (b"[1]", b'{"a"'):
        with pytest.raises(codec.CodecError):
            codec.fields(wrong)
