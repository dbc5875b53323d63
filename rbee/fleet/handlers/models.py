# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines and models on a machine."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from rbee.contracts.operations.models import ModelDelete, ModelDownload
from rbee.core.actions import Action
from rbee.core.digest import digest
from rbee.core.model_files import safe_filename
from rbee.fleet.handlers.machine import files
from rbee.fleet.local_models import parts
from rbee.fleet.ports import Target
from rbee.fleet.world import Tell, World


def install_engine(world: World, action: Action, tell: Tell) -> None:
    """From this program's own environment on this machine when it is there, else as a bundle of wheels."""
    assert action.hive is not None
    provider = world.provider(str(action.params["engine"]))
    if world.hive(action.hive).local and world.installer.engine_here(provider, world.mark):
        tell.note(f"{provider.distribution} {provider.version} is in rbee's own environment")
        return
    facts = world.facts(action.hive)
    bundle = world.bundler.engine(provider, Target.of(facts), world.mark)
    world.installer.install(world.shell(action.hive), facts, bundle, tell.progress)


def remove_engine(world: World, action: Action, tell: Tell) -> None:
    assert action.hive is not None
    facts = world.facts(action.hive)
    files(
        world.shell(action.hive),
        facts,
        remove=[str(PurePosixPath(facts.roots.engines) / action.name)],
        roots=[facts.roots.engines],
    )


def fetch(world: World, action: Action, tell: Tell) -> None:
    """The hive fetches it from its source."""
    _download(world, action, tell, str(action.params["source"]))


def push(world: World, action: Action, tell: Tell) -> None:
    """Send a model of this machine, then let the hive take it into its catalog."""
    assert action.hive is not None
    facts, source = world.facts(action.hive), Path(str(action.params["push_from"]))
    folder = PurePosixPath(facts.roots.models) / ".incoming"
    files = parts(source)
    if len(files) == 1:
        name = f"{digest(action.name)}-{re.sub(r'[^A-Za-z0-9._-]', '_', source.name)}"
    else:
        # Their own names: parts know each other by them.
        folder, name = folder / digest(action.name), safe_filename(files[0].name)
    for file in files:
        tell.note(f"sending {file} ({file.stat().st_size / 2**20:.1f} MB)")
        destination = str(folder / (name if len(files) == 1 else safe_filename(file.name)))
        world.installer.push(world.shell(action.hive), facts, file, destination, tell.progress)
    _download(world, action, tell, f"file:{folder if source.is_dir() else folder / name}")


def _download(world: World, action: Action, tell: Tell, source: str) -> None:
    assert action.hive is not None
    declared = str(action.params["source"])
    answer: Any = world.api(action.hive).run(
        ModelDownload(
            hive_id=action.hive,
            model=source,
            model_id=action.name,
            revision=action.params.get("revision"),
            commit=action.params.get("commit"),
            sha256=action.params.get("sha256"),
            declared_source=declared if declared != source else None,
            mark=world.mark,
        ),
        tell.event,
    )
    with world.lock:
        world.fetched[action.name] = {
            "source": declared,
            "revision": action.params.get("revision"),
            "commit": answer.commit,
            "sha256": answer.checksum,
        }


def remove(world: World, action: Action, tell: Tell) -> None:
    assert action.hive is not None
    world.api(action.hive).run(ModelDelete(hive_id=action.hive, model_id=action.name), tell.event)
