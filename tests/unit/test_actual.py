# SPDX-License-Identifier: GPL-3.0-or-later
"""The fingerprint of what was seen: it makes a saved plan stale, and only for what matters."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rbee.core.actual import Actual, HiveActual, QueenActual, Unknown, fingerprint
from rbee.core.records import WorkerStatus
from tests.unit.strategies import actuals


@given(actuals(), st.integers(0, 2**40))
def test_a_fingerprint_is_blind_to_what_changes_by_itself(seen: Actual, free: int) -> None:
    def later(hive: HiveActual | Unknown) -> HiveActual | Unknown:
        if isinstance(hive, Unknown):
            return Unknown(why="another reason")
        swap: dict[WorkerStatus, WorkerStatus]
        swap = {"ready": "busy", "busy": "starting", "starting": "ready", "dead": "failed"}
        workers = tuple(replace(w, status=swap.get(w.status, w.status), memory_mb=1.0) for w in hive.workers)
        return replace(hive, memory_available=free, workers=workers)

    moved = replace(seen, hives={n: later(h) for n, h in seen.hives.items()})
    assert fingerprint(moved) == fingerprint(seen)


@given(actuals(), st.data())
def test_a_fingerprint_sees_what_a_plan_is_made_from(seen: Actual, data: st.DataObject) -> None:
    hives = {n: h for n, h in seen.hives.items() if isinstance(h, HiveActual)}
    changed = [
        replace(seen, queen=Unknown(why="") if isinstance(seen.queen, QueenActual) else QueenActual(running=True))
    ]
    for name, hive in hives.items():
        others: list[HiveActual | Unknown] = [
            replace(hive, address="10.9.9.9"),
            replace(hive, releases=(*hive.releases, "another")),
            replace(hive, token_digest="another"),
            replace(hive, live=None) if hive.live else Unknown(why=""),
        ]
        others += [replace(hive, workers=hive.workers[1:])] if hive.workers else []
        others += [replace(hive, models=hive.models[1:])] if hive.models else []
        others += [replace(hive, binaries=hive.binaries[1:])] if hive.binaries else []
        changed += [replace(seen, hives={**seen.hives, name: other}) for other in others]
    other = data.draw(st.sampled_from(changed))
    assert fingerprint(other) != fingerprint(seen)
