# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers: spawn, replace, stop, all by their hive."""

from __future__ import annotations

from rbee.contracts import codec
from rbee.contracts.operations.workers import WorkerProcessDelete, WorkerSpawn
from rbee.core.actions import Action
from rbee.core.errors import NotFound, RbeeError
from rbee.core.records import Mark
from rbee.core.spec import WorkerOptions
from rbee.fleet.world import Tell, World


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
            queen_url=world.hive_configs[action.hive].queen_url,
            mark=Mark(fleet=world.spec.fleet, spec_digest=str(p["digest"])),
        ),
        tell.event,
    )


def replace(world: World, action: Action, tell: Tell) -> None:
    """Stop the old process, if there still is one, then spawn the new."""
    stop(world, action, tell)
    spawn(world, action, tell)


def stop(world: World, action: Action, tell: Tell) -> None:
    assert action.hive is not None
    pid = action.params.get("pid")
    if not pid:
        return
    try:
        world.api(action.hive).run(WorkerProcessDelete(hive_id=action.hive, pid=int(pid)), tell.event)
    except NotFound:
        return  # it ended by itself meanwhile: that is what was wanted
    except RbeeError as e:
        if e.code != "not_found":
            raise
