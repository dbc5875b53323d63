# SPDX-License-Identifier: GPL-3.0-or-later
"""Hives on other machines: install, start, restart, stop, uninstall."""

from __future__ import annotations

from pathlib import PurePosixPath

from rbee.contracts import codec
from rbee.core.actions import Action
from rbee.core.errors import RbeeError
from rbee.fleet.handlers.machine import files, python_of, service
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
    """Write the hive's settings and the fleet's token (0600, by standard input)."""
    assert action.hive is not None
    facts, config = world.facts(action.hive), world.hive_configs[action.hive]
    files(
        world.shell(action.hive),
        facts,
        write=[
            {"path": facts.roots.token, "text": world.home.token() + "\n", "mode": 0o600},
            {"path": facts.roots.hive_config, "text": codec.encode_pretty(config).decode(), "mode": 0o600},
        ],
    )


def _service(world: World, action: Action, verb: str, tell: Tell) -> None:
    assert action.hive is not None
    told = service(
        world.shell(action.hive), release_python(world, action.hive, str(action.params["release"])), verb, "hive"
    )
    for note in told.get("notes", ()):
        tell.say(str(note))


def stop(world: World, action: Action, tell: Tell) -> None:
    assert action.hive is not None
    facts = world.facts(action.hive)
    ours = [r for r in facts.releases if r.mark is not None and r.mark.fleet == world.spec.fleet]
    if not ours:
        raise RbeeError("No release of this fleet is on the machine to stop its hive with.", code="no_release")
    service(world.shell(action.hive), ours[-1].python, "stop", "hive")


def uninstall(world: World, action: Action, tell: Tell) -> None:
    """Remove what apply put there: releases with this fleet's mark, settings, token, wheels. Models were
    removed by their own actions; whatever bears no mark stays."""
    assert action.hive is not None
    facts, shell = world.facts(action.hive), world.shell(action.hive)
    roots = facts.roots
    ours = [r.path for r in facts.releases if r.mark is not None and r.mark.fleet == world.spec.fleet]
    all_gone = len(ours) == len(facts.releases)
    extra = [roots.token, roots.hive_config, roots.wheels, f"{roots.data}/memory.json", f"{roots.state}/workers"]
    extra.append(f"{roots.models}/.incoming")  # of pushes that were never finished
    extra += [f"{roots.data}/hive.{end}" for end in ("db", "db-wal", "db-shm")]
    extra += [f"{roots.state}/hive.{end}" for end in ("lock", "run.json", "queen.json", "log", "log.1")]
    extra += [f"{folder}/.install.lock" for folder in (roots.releases, roots.engines)]
    python_of(facts)
    files(
        shell,
        facts,
        remove=[*ours, *(extra if all_gone else [])],
        roots=[roots.config, roots.cache, roots.data, roots.state],
        tidy=[roots.releases, roots.models, roots.engines, roots.config, roots.cache, roots.data, roots.state],
    )
