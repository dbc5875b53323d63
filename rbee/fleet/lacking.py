# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine has not that its workers need: a problem for each, told before anything is begun. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rbee.core.actual import HiveActual
from rbee.core.desired import WorkerWanted
from rbee.core.problems import Problem
from rbee.core.providers import EngineProvider, binary_id
from rbee.core.spec import HiveSpec, WorkerSpec


def nowhere(worker: WorkerSpec, hives: Mapping[str, HiveSpec]) -> Problem:
    labels = worker.where.labels if worker.where else {}
    shown = ", ".join(f"{k}={v}" for k, v in labels.items()) or "(none asked)"
    return Problem(
        summary=f"No usable hive fits worker {worker.name!r}",
        detail=f"It asks for labels {shown}; hives of this file: {', '.join(hives) or 'none'}.",
        mend="Give a hive these labels, or mend the problems of the hives that have them.",
        subject=f"workers.{worker.name}",
    )


def lacking(provider: EngineProvider, hive: str, seen: HiveActual, subject: str) -> list[Problem]:
    """What the machine must have for an engine, and has not."""
    out: list[Problem] = []
    if provider.install_for(seen.platform) is None and not any(
        b.id == binary_id(provider, seen.platform) and b.status == "available" for b in seen.binaries
    ):
        known = ", ".join(i.platform for i in provider.install) or "none"
        out.append(
            Problem(
                summary=f"Engine {provider.name!r} cannot be installed on hive {hive!r}",
                detail=f"The machine is {seen.platform}; the provider knows {known}.",
                subject=subject,
            )
        )
    arch = seen.platform.partition("-")[2]
    flags = [f for f in provider.needs.cpu_flags.get(arch, ()) if seen.cpu_flags and f not in seen.cpu_flags]
    if flags:
        out.append(
            Problem(
                summary=f"The CPU of hive {hive!r} lacks {', '.join(flags)}",
                detail=f"Engine {provider.name!r} is built for CPUs that have them and would die at once.",
                mend=provider.needs.hints.get(flags[0], "Run this worker on another machine."),
                subject=subject,
            )
        )
    out.extend(
        Problem(
            summary=f"Hive {hive!r} lacks the library {library}",
            detail=f"Engine {provider.name!r} needs it and no wheel brings it.",
            mend=provider.needs.hints.get(library, "Install it on that machine."),
            subject=subject,
        )
        for library in provider.needs.libraries
        if library in seen.missing_libraries
    )
    return out


def threads(name: str, workers: Iterable[WorkerWanted], seen: HiveActual) -> list[Problem]:
    """More threads than cores make every CPU worker many times slower: a hive refuses that, and so does the plan."""
    cores = next((d.cores for d in seen.devices if d.device_type == "cpu"), None)
    wanted = sum(w.options.threads or 1 for w in workers if w.device.startswith("cpu") and not w.on_demand)
    if not cores or wanted <= cores:
        return []
    return [
        Problem(
            summary=f"Not enough CPU cores on hive {name!r}",
            detail=f"Its CPU workers take {wanted} threads at the least; the machine has {cores} cores.",
            mend="Use fewer replicas or threads (`options: {parallel: N}` serves more at once), or another hive.",
            subject=f"hives.{name}",
        )
    ]


def memory(name: str, needed: int, seen: HiveActual) -> list[Problem]:
    """`needed`: bytes that the workers which a plan starts on the CPU will take."""
    if not seen.memory_available or needed <= seen.memory_available:
        return []
    return [
        Problem(
            summary=f"Not enough memory on hive {name!r}",
            detail=(
                f"Its new CPU workers will take about {needed / 2**20:.0f} MB; "
                f"{seen.memory_available / 2**20:.0f} MB of {seen.memory_total / 2**20:.0f} MB are free."
            ),
            mend="Use a smaller model or context_length, fewer replicas, or another hive.",
            subject=f"hives.{name}",
        )
    ]
