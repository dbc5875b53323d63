# SPDX-License-Identifier: GPL-3.0-or-later
"""Hives on other machines: install, start, restart, stop, uninstall."""

from __future__ import annotations

from pathlib import PurePosixPath

from rbee.core.actions import Action
from rbee.fleet import one_hive
from rbee.fleet.handlers.machine import service
from rbee.fleet.ports import Target
from rbee.fleet.world import Tell, World


def release_python(world: World, hive: str, release: str) -> str:
    """Interpreter of a release on a machine (it may have been installed by this very apply)."""
    return str(PurePosixPath(world.facts(hive).roots.releases) / release / "bin" / "python")


def install(world: World, action: Action, tell: Tell) -> None:
    assert action.hive is not None
    facts = world.facts(action.hive)
    bundle = world.bundler.release(Target.of(facts), world.mark)
    world.installer.install(world.shell(action.hive), facts, bundle, tell.progress)


def start(world: World, action: Action, tell: Tell) -> None:
    """Start it with the settings that are wanted; one that is to go, with those that it has."""
    if not action.params.get("as_it_was"):
        _configure(world, action)
    _service(world, action, "start", tell)


def restart(world: World, action: Action, tell: Tell) -> None:
    _configure(world, action)
    _service(world, action, "restart", tell)


def _configure(world: World, action: Action) -> None:
    assert action.hive is not None
    shell, facts = world.shell(action.hive), world.facts(action.hive)
    one_hive.configure(shell, facts, world.home.token(), world.hive_configs[action.hive])


def _service(world: World, action: Action, verb: str, tell: Tell) -> None:
    assert action.hive is not None
    told = service(
        world.shell(action.hive), release_python(world, action.hive, str(action.params["release"])), verb, "hive"
    )
    for note in told.get("notes", ()):
        tell.say(str(note))


def stop(world: World, action: Action, tell: Tell) -> None:
    assert action.hive is not None
    one_hive.stop(world.shell(action.hive), world.facts(action.hive), world.spec.fleet)


def uninstall(world: World, action: Action, tell: Tell) -> None:
    assert action.hive is not None
    one_hive.uninstall(world.shell(action.hive), world.facts(action.hive), world.spec.fleet)
