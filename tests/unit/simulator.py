# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a plan's actions to an `Actual`, as the handlers would to machines, and refuses what these could not do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from rbee.core.actions import Action
from rbee.core.actual import ALIVE, Actual, HiveActual, HiveLive, KnownTo, QueenActual, in_place
from rbee.core.desired import Desired
from rbee.core.records import WorkerRecord
from tests.unit.strategies import binary, model, worker


def apply(actions: Iterable[Action], wanted: Desired, seen: Actual) -> Actual:
    """What would be seen after the actions, done in this order."""
    for action in actions:
        seen = _queen(action, wanted, seen) if action.kind.startswith("queen.") else _on_hive(action, wanted, seen)
    return seen


def _queen(action: Action, wanted: Desired, seen: Actual) -> Actual:
    queen = seen.queen
    assert isinstance(queen, QueenActual)
    if action.kind == "queen.stop":
        assert queen.running or queen.fleet, "there are not even settings of hers"
        return replace(seen, queen=QueenActual(running=False))
    if action.params.get("as_it_was"):
        assert not queen.running
        return replace(seen, queen=replace(queen, running=True))
    assert wanted.queen is not None
    assert queen.running == (action.kind != "queen.start")
    known = {h.hive_id: h for h in queen.hives}
    named = {h: known.get(h, KnownTo(hive_id=h, url="", online=False)) for h in wanted.queen.hives}
    told = replace(queen, running=True, config_digest=wanted.queen.config_digest, hives=(*{**known, **named}.values(),))
    if action.kind != "queen.configure":
        told = replace(
            told,
            release=wanted.queen.release,
            boot_digest=wanted.queen.boot_digest,
            token_digest=wanted.queen.token_digest,
        )
    return replace(seen, queen=told)


def _on_hive(action: Action, wanted: Desired, seen: Actual) -> Actual:
    assert action.hive is not None
    if action.kind in ("hive.register", "hive.unregister"):
        return replace(seen, queen=_registered(action, seen))
    hive = seen.hives[action.hive]
    assert isinstance(hive, HiveActual), f"{action.id}: nothing is known of that machine"
    done = _daemon(action, wanted, hive) if action.kind.startswith("hive.") else _things(action, wanted, seen, hive)
    return replace(seen, hives={**seen.hives, action.hive: done})


def _registered(action: Action, seen: Actual) -> QueenActual:
    queen = seen.queen
    assert isinstance(queen, QueenActual)
    assert queen.running, f"{action.id}: there is no queen"
    known = {h.hive_id: h for h in queen.hives}
    if action.kind == "hive.unregister":
        del known[action.name]
    else:
        hive = seen.hives[action.name]
        assert isinstance(hive, HiveActual)
        assert hive.live is not None, f"{action.id}: it does not run yet"
        # Settings that are as wanted name it, whatever the strategies made up of what she knows.
        known[action.name] = KnownTo(hive_id=action.name, url="", online=True)
    return replace(queen, hives=tuple(known.values()))


def _daemon(action: Action, wanted: Desired, hive: HiveActual) -> HiveActual:
    if action.kind == "hive.install":
        release = str(action.params["release"])
        fleets = {**hive.release_fleets, release: wanted.fleet}
        return replace(hive, releases=(*hive.releases, release), release_fleets=fleets)
    if action.kind == "hive.stop":
        assert hive.live is not None
        return replace(hive, live=None)
    if action.kind == "hive.uninstall":
        kept = {r: f for r, f in hive.release_fleets.items() if f != wanted.fleet}
        ours = hive.release_fleets.keys() - kept.keys()
        assert ours, f"{action.id}: nothing there is ours"
        assert hive.live is None, f"{action.id}: it still runs"
        return replace(
            hive,
            releases=tuple(r for r in hive.releases if r not in ours),
            release_fleets=kept,
            workers=tuple(w for w in hive.workers if w.status in ALIVE or not w.mark or w.mark.fleet != wanted.fleet),
        )
    if action.params.get("as_it_was"):
        assert action.kind == "hive.start", action.id
        assert hive.live is None
        release = str(action.params["release"])
        assert hive.release_fleets[release] == wanted.fleet, f"{action.id}: that release is not ours"
        return replace(hive, live=HiveLive(fleet=wanted.fleet, release=release, config_digest=""))
    want = wanted.hives[action.name]
    assert want.release in hive.releases, f"{action.id}: its release is not there"
    assert (hive.live is None) == (action.kind == "hive.start")
    live = HiveLive(fleet=wanted.fleet, release=want.release, config_digest=want.config_digest)
    return replace(hive, live=live, token_digest=want.token_digest)


def _things(action: Action, wanted: Desired, seen: Actual, hive: HiveActual) -> HiveActual:
    """Engines, models and workers. Engines need no daemon; all else needs one, also where nothing is wanted."""
    if not action.kind.startswith("engine."):
        assert _up(action, wanted, seen, hive), f"{action.id}: its hive does not run"
    if action.kind.startswith("engine."):
        if action.kind == "engine.install":
            added = binary(action.name, engine=action.params["engine"])
            return replace(hive, binaries=_put(hive.binaries, added, "id"))
        return replace(hive, binaries=_drop(hive.binaries, action, wanted.fleet, "id"))
    if action.kind.startswith("model."):
        if action.kind == "model.remove":
            users = [w for w in hive.workers if w.model == action.name and w.status in ALIVE]
            assert action.hive not in wanted.hives or not users, f"{action.id}: {users[0].worker_id} uses it"
            return replace(hive, models=_drop(hive.models, action, wanted.fleet, "id"))
        p = action.params
        old = next((m for m in hive.models if m.id == action.name and m.status == "available"), None)
        assert old is None or (old.mark and old.mark.fleet == wanted.fleet), f"{action.id} overwrites another's"
        made = model(action.name, source=p["source"], revision=p["revision"], checksum=p["sha256"] or "c" * 64)
        return replace(hive, models=_put(hive.models, made, "id"))
    if action.kind == "worker.configure":
        [there] = [w for w in hive.workers if w.worker_id == action.name]
        assert in_place(there) and there.mark and there.mark.spec_digest == action.params["digest"]
        hive = replace(
            hive, workers=_put(hive.workers, replace(there, idle_timeout=action.params["idle_timeout"]), "worker_id")
        )
    if action.kind in ("worker.stop", "worker.replace"):
        hive = replace(hive, workers=_drop(hive.workers, action, wanted.fleet, "worker_id"))
    if action.kind in ("worker.spawn", "worker.replace"):
        p = action.params
        assert any(m.id == p["model"] and m.status == "available" for m in hive.models), f"{action.id}: no model"
        assert any(b.id == p["binary_id"] and b.status == "available" for b in hive.binaries), f"{action.id}: no engine"
        others = [h for n, h in seen.hives.items() if n != action.hive and isinstance(h, HiveActual)]
        assert not any(w.worker_id == action.name and _stops(w, wanted, h) for h in others for w in h.workers)
        spawned = worker(
            action.name, digest=p["digest"], model=p["model"], engine=p["engine"], status="starting",
            idle_timeout=p["idle_timeout"],
        )  # fmt: skip
        hive = replace(hive, workers=_put(hive.workers, spawned, "worker_id"))
    return hive


def _up(action: Action, wanted: Desired, seen: Actual, hive: HiveActual) -> bool:
    if hive.live is not None:
        return True
    if hive.address:
        # Without a release of ours nothing can be started to clean up: such an action fails, and says so.
        return action.hive not in wanted.hives and wanted.fleet not in hive.release_fleets.values()
    return isinstance(seen.queen, QueenActual) and (seen.queen.running or not seen.queen.fleet)


def _stops(record: WorkerRecord, wanted: Desired, hive: HiveActual) -> bool:
    """Whether a living worker of ours on a machine that is looked after would be stopped there first."""
    untouched = hive.problems or (hive.live and hive.live.fleet != wanted.fleet) or not hive.address
    ours = record.mark is not None and record.mark.fleet == wanted.fleet
    return ours and record.status in ALIVE and not untouched


def _put(records: tuple[Any, ...], new: Any, key: str) -> tuple[Any, ...]:
    return (*(r for r in records if getattr(r, key) != getattr(new, key)), new)


def _drop(records: tuple[Any, ...], action: Action, fleet: str, key: str) -> tuple[Any, ...]:
    gone = [r for r in records if getattr(r, key) == action.name]
    assert gone, f"{action.id}: it is not there"
    assert all(r.mark is not None and r.mark.fleet == fleet for r in gone), f"{action.id}: it is not ours"
    return tuple(r for r in records if r not in gone)
