# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers: spawn, replace, stop, all by their hive."""

from __future__ import annotations

from rbee.contracts import codec
from rbee.contracts.operations.fleet import Status, StatusResponse
from rbee.contracts.operations.workers import (
    WorkerProcessDelete,
    WorkerProcessList,
    WorkerProcessListResponse,
    WorkerSpawn,
)
from rbee.core.actions import Action
from rbee.core.actual import in_place
from rbee.core.errors import RbeeError
from rbee.core.records import Mark, WorkerRecord
from rbee.core.spec import WorkerOptions
from rbee.fleet.settings import queen_local_url
from rbee.fleet.world import Tell, World

#: A ready worker's heartbeat takes milliseconds; longer than this, the queen is the problem, not the worker.
ROUTABLE_TIMEOUT = 5.0
#: What a hive says of a process that it does not have (any more).
_GONE = ("not_found", "worker_not_found")


def spawn(world: World, action: Action, tell: Tell) -> None:
    """Start a worker and wait until it is ready. One that already runs as wanted is left as it is."""
    assert action.hive is not None
    p = action.params
    kind, _, index = str(p["device"]).partition(":")
    world.api(action.hive).run(
        WorkerSpawn(
            hive_id=action.hive,
            model=str(p["model"]),
            worker=kind,
            device=int(index or 0),
            engine=str(p["engine"]),
            worker_id=action.name,
            options=codec.convert(WorkerOptions, p["options"]),
            idle_timeout=p.get("idle_timeout"),
            queen_url=world.hive_configs[action.hive].queen_url,
            mark=Mark(fleet=world.spec.fleet, spec_digest=str(p["digest"])),
        ),
        tell.event,
    )
    _known_to_the_queen(world, action.name, tell)


def _known_to_the_queen(world: World, worker_id: str, tell: Tell) -> None:
    """Wait until the queen sends requests to a worker that is ready, so that apply ends when clients may begin.

    A queen that is not there is not this action's failure: whatever starts or registers tells of her.
    """
    api = world.machines.queen_api(queen_local_url(world.spec))
    end = world.clock.monotonic() + ROUTABLE_TIMEOUT
    while not world.stop.is_set():
        try:
            found: StatusResponse = api.run(Status())
        except RbeeError:
            return
        if any(w.worker.worker_id == worker_id and w.routable for w in found.workers):
            return
        if world.clock.monotonic() > end:
            tell.note("ready, but the queen has not heard of it yet")
            return
        world.clock.sleep(0.1)


def replace(world: World, action: Action, tell: Tell) -> None:
    """Stop the old process, if there still is one, then spawn the new."""
    stop(world, action, tell)
    spawn(world, action, tell)


def stop(world: World, action: Action, tell: Tell) -> None:
    assert action.hive is not None
    pid = int(action.params.get("pid") or 0)
    if not pid:
        _stop_by_name(world, action, tell)
        return
    try:
        world.api(action.hive).run(WorkerProcessDelete(hive_id=action.hive, pid=pid), tell.event)
    except RbeeError as e:
        if e.code not in _GONE:
            raise
        _stop_by_name(world, action, tell)


def _delete(hive: str, worker: WorkerRecord) -> WorkerProcessDelete:
    """By its pid, so that never another process of that name is meant; one without has only its name."""
    if worker.pid:
        return WorkerProcessDelete(hive_id=hive, pid=worker.pid)
    return WorkerProcessDelete(hive_id=hive, worker_id=worker.worker_id)


def _stop_by_name(world: World, action: Action, tell: Tell) -> None:
    """It has no process (unloaded, failed), or the one that was seen is gone. After a reboot or a death its hive may
    have started the worker again, or the queen, as it shall be: what then runs under its name is stopped, unless it
    is what the action is to bring about.
    """
    assert action.hive is not None
    api, wanted = world.api(action.hive), action.params.get("digest")
    found: WorkerProcessListResponse = api.run(WorkerProcessList(hive_id=action.hive))
    for worker in found.workers:
        as_wanted = wanted and worker.mark and worker.mark.spec_digest == wanted and in_place(worker)
        if worker.worker_id == action.name and not as_wanted:
            try:
                api.run(_delete(action.hive, worker), tell.event)
            except RbeeError as e:
                if e.code not in _GONE:
                    raise
