# SPDX-License-Identifier: GPL-3.0-or-later
"""One hive's release and daemon on its machine: what plan's actions do of it, and what the queen does when asked."""

from __future__ import annotations

from collections.abc import Callable

from rbee.contracts import codec
from rbee.contracts.configs import HiveConfig
from rbee.core.errors import RbeeError
from rbee.core.facts import MachineFacts, Release
from rbee.core.problems import Problem
from rbee.core.records import Mark
from rbee.fleet import facts as look
from rbee.fleet.handlers.machine import files, python_of, service
from rbee.fleet.observe import machine_problems
from rbee.fleet.ports import Bundler, OnProgress, Shell, Target
from rbee.fleet.world import Installer


def observe(shell: Shell, name: str) -> MachineFacts:
    """The machine of hive `name`. Raises Unreachable, or RbeeError `bad_machine` with what keeps it from being one."""
    facts = look.observe(shell, capabilities=False).facts
    problems: list[Problem] = list(machine_problems(name, facts))
    if problems:
        first = problems[0]
        raise RbeeError(f"{first.summary}. {first.detail}".rstrip(), code="bad_machine", mend=first.mend)
    return facts


def releases(facts: MachineFacts, fleet: str) -> list[Release]:
    """Those that bear this fleet's mark, the one that its hive runs (or ran last) at the end."""
    ours = [r for r in facts.releases if r.mark is not None and r.mark.fleet == fleet]
    running = facts.hive.release if facts.hive is not None else ""
    return sorted(ours, key=lambda r: r.id == running)


def install(
    shell: Shell, facts: MachineFacts, fleet: str, bundler: Bundler, installer: Installer, on_progress: OnProgress
) -> tuple[str, bool]:
    """The release that is there then, and whether it had to be installed."""
    if any(r.id == bundler.release_id for r in releases(facts, fleet)):
        return bundler.release_id, False
    bundle = bundler.release(Target.of(facts), Mark(fleet=fleet))
    installer.install(shell, facts, bundle, on_progress)
    return bundle.id, True


def configure(shell: Shell, facts: MachineFacts, token: str, config: HiveConfig) -> None:
    """Write the hive's settings and the fleet's token, if it has one (0600, by standard input)."""
    written = [{"path": facts.roots.token, "text": token + "\n", "mode": 0o600}] if token else []
    written.append({"path": facts.roots.hive_config, "text": codec.encode_pretty(config).decode(), "mode": 0o600})
    files(shell, facts, write=written)


def start(
    shell: Shell,
    facts: MachineFacts,
    fleet: str,
    *,
    prefer: str,
    token: str,
    config: Callable[[MachineFacts, str], HiveConfig],
) -> list[str]:
    """Start it with the settings that the last apply gave it; notes for the person.

    Without any (it was uninstalled), it gets the token and what `config` makes of the facts and the release; the next
    apply completes them. `prefer`: the release to run when that is there. Raises RbeeError `no_release`,
    `start_failed` with its last words.
    """
    ours = releases(facts, fleet)
    if not ours:
        raise RbeeError(
            "No release of this fleet is on the machine to start its hive with.",
            code="no_release",
            mend="Install one first (HiveInstall), or apply.",
        )
    release = next((r for r in ours if r.id == prefer), ours[-1])
    if facts.hive_config is None or facts.hive_config.fleet != fleet:
        configure(shell, facts, token, config(facts, release.id))
    told = service(shell, release.python, "start", "hive")
    return [str(note) for note in told.get("notes", ())]


def stop(shell: Shell, facts: MachineFacts, fleet: str) -> None:
    """Raises RbeeError `no_release`, or why it does not end."""
    ours = releases(facts, fleet)
    if not ours:
        raise RbeeError("No release of this fleet is on the machine to stop its hive with.", code="no_release")
    service(shell, ours[-1].python, "stop", "hive")


def uninstall(shell: Shell, facts: MachineFacts, fleet: str) -> None:
    """Remove what apply put there: releases with this fleet's mark, settings, token, wheels. Models were
    removed by their own actions; whatever bears no mark stays."""
    roots = facts.roots
    ours = [r.path for r in facts.releases if r.mark is not None and r.mark.fleet == fleet]
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
