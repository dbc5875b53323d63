# SPDX-License-Identifier: GPL-3.0-or-later
"""Spec x what was seen -> Desired: places workers, chooses engines, and tells what cannot be. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rbee.contracts.configs import HiveConfig, QueenConfig, boot_digest, config_digest
from rbee.core.actual import Actual, HiveActual, Unknown
from rbee.core.desired import Desired, EngineWanted, HiveWanted, ModelWanted, Pin, QueenWanted, WorkerWanted
from rbee.core.digest import digest
from rbee.core.placement import choose_engine, place
from rbee.core.problems import Problem
from rbee.core.providers import EngineProvider, binary_id
from rbee.core.spec import HiveSpec, ModelSpec, Spec, WorkerSpec

#: Bytes a worker will take for a model with these options, or None when that cannot be known yet.
Predict = Callable[[ModelSpec, WorkerSpec], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that Desired is worked out from. `pinned` is of rbee.lock, by model name."""

    spec: Spec
    providers: Sequence[EngineProvider]
    actual: Actual
    release: str
    token_digest: str
    queen_config: QueenConfig
    hive_configs: Mapping[str, HiveConfig]
    predict: Predict
    pinned: Mapping[str, Pin] = field(default_factory=dict)
    #: SHA-256 of the files of this machine that models come from (`file:`), by model name.
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Draft:
    """What a hive gets, while it is being worked out."""

    engines: dict[str, EngineWanted] = field(default_factory=dict)
    models: dict[str, ModelWanted] = field(default_factory=dict)
    workers: list[WorkerWanted] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    memory: int = 0


def worker_ids(worker: WorkerSpec) -> tuple[str, ...]:
    """`chat-0`, `chat-1`, ...: ids of a worker's replicas, unique in the fleet because names are."""
    return tuple(f"{worker.name}-{i}" for i in range(worker.replicas.max))


def make_desired(inputs: Inputs) -> Desired:
    """Everything wanted, and a problem for each thing that cannot be had."""
    spec, actual = inputs.spec, inputs.actual
    drafts = {name: _Draft() for name in spec.hives}
    problems: list[Problem] = []
    running = {
        w.worker_id: name
        for name, seen in actual.hives.items()
        if isinstance(seen, HiveActual)
        for w in seen.workers
        if w.mark and w.mark.fleet == spec.fleet
    }
    for worker in spec.workers.values():
        placed = _place(inputs, worker, drafts, running)
        if worker.hive is None and worker.replicas.max and not placed:
            problems.append(_nowhere(worker, spec.hives))
        for worker_id in worker_ids(worker):
            hive = placed.get(worker_id, "")
            seen, before = actual.hives.get(hive), len(problems)
            usable = isinstance(seen, HiveActual) and not seen.problems
            if isinstance(seen, HiveActual) and usable:
                problems.extend(_add(inputs, drafts[hive], spec.hives[hive], seen, worker, worker_id))
            if (not usable or len(problems) > before) and running.get(worker_id) in drafts:
                drafts[running[worker_id]].held.append(worker_id)
    for name, draft in drafts.items():
        seen = actual.hives.get(name)
        too_much = [*_memory(name, draft, seen), *_threads(name, draft, seen)] if isinstance(seen, HiveActual) else []
        if isinstance(seen, HiveActual) and too_much:
            problems.extend(too_much)
            _begin_nothing(draft, seen, running, drafts)
    return Desired(
        fleet=spec.fleet,
        queen=QueenWanted(
            release=inputs.release,
            config_digest=config_digest(inputs.queen_config),
            boot_digest=boot_digest(inputs.queen_config),
            token_digest=inputs.token_digest,
            hives=tuple(spec.hives),
        ),
        hives={name: _wanted(inputs, hive, drafts[name]) for name, hive in spec.hives.items()},
        problems=tuple(problems),
    )


def _place(
    inputs: Inputs, worker: WorkerSpec, drafts: Mapping[str, _Draft], running: Mapping[str, str]
) -> dict[str, str]:
    """Hive of each replica: one that can run it where there is one, else one that fits by its labels (and then
    has a problem to tell). A replica on a machine that has a problem now is not moved for that."""
    hives, actual = inputs.spec.hives, inputs.actual.hives
    stuck = {h for w in worker_ids(worker) if (h := running.get(w)) in hives and _problems(actual.get(h))}
    usable = {n: h for n, h in hives.items() if n in stuck or _problems(actual.get(n)) == ()}
    able = {n: h for n, h in usable.items() if n in stuck or _able(inputs, actual[n], n, worker)}
    load = {n: float(len(d.workers)) for n, d in drafts.items()}
    ids = worker_ids(worker)
    return place(ids, worker, able, running, load) or place(ids, worker, usable, running, load)


def _problems(seen: HiveActual | Unknown | None) -> tuple[Problem, ...] | None:
    """Of a machine; None when it was not seen."""
    return seen.problems if isinstance(seen, HiveActual) else None


def _able(inputs: Inputs, seen: HiveActual | Unknown, hive: str, worker: WorkerSpec) -> bool:
    """Whether a machine has a device and an engine for a worker."""
    if not isinstance(seen, HiveActual):
        return False
    choice = choose_engine(worker, inputs.spec.models[worker.model], seen.devices, inputs.providers)
    return not isinstance(choice, str) and not _lacking(choice[0], hive, seen, "")


def _wanted(inputs: Inputs, hive: HiveSpec, draft: _Draft) -> HiveWanted:
    config = inputs.hive_configs.get(hive.name)
    return HiveWanted(
        name=hive.name,
        local=hive.local,
        release=inputs.release,
        config_digest=config_digest(config) if config else "",
        token_digest=inputs.token_digest,
        engines=tuple(draft.engines.values()),
        models=tuple(draft.models.values()),
        workers=tuple(draft.workers),
        held=tuple(draft.held),
    )


def _nowhere(worker: WorkerSpec, hives: Mapping[str, HiveSpec]) -> Problem:
    labels = worker.where.labels if worker.where else {}
    shown = ", ".join(f"{k}={v}" for k, v in labels.items()) or "(none asked)"
    return Problem(
        summary=f"No usable hive fits worker {worker.name!r}",
        detail=f"It asks for labels {shown}; hives of this file: {', '.join(hives) or 'none'}.",
        mend="Give a hive these labels, or mend the problems of the hives that have them.",
        subject=f"workers.{worker.name}",
    )


def _add(
    inputs: Inputs, draft: _Draft, hive: HiveSpec, seen: HiveActual, worker: WorkerSpec, worker_id: str
) -> list[Problem]:
    """Put one worker into a hive's draft; what forbids it is returned."""
    subject = f"workers.{worker_id}"
    model = inputs.spec.models[worker.model]
    choice = choose_engine(worker, model, seen.devices, inputs.providers)
    if isinstance(choice, str):
        return [
            Problem(
                summary=f"Worker {worker_id!r} cannot run on hive {hive.name!r}",
                detail=choice[0].upper() + choice[1:] + ".",
                mend="Name another device, engine or hive for it.",
                subject=subject,
            )
        ]
    provider, device = choice
    lacking = _lacking(provider, hive.name, seen, subject)
    if lacking:
        return lacking
    binary = binary_id(provider, seen.platform)
    draft.engines[binary] = EngineWanted(binary_id=binary, engine=provider.name)
    draft.models[model.name] = _model(inputs, model, hive)
    if device.startswith("cpu") and not _runs(seen, worker_id):
        draft.memory += inputs.predict(model, worker) or 0
    draft.workers.append(
        WorkerWanted(
            worker_id=worker_id,
            spec_name=worker.name,
            model=model.name,
            engine=provider.name,
            binary_id=binary,
            device=device,
            options=worker.options,
            idle_timeout=worker.idle_timeout,
            digest=digest(
                {
                    "model": [model.source, model.revision, model.sha256 or inputs.files.get(model.name)],
                    "engine": binary,
                    "device": device,
                    "options": worker.options,
                }
            ),
        )
    )
    return []


def _model(inputs: Inputs, model: ModelSpec, hive: HiveSpec) -> ModelWanted:
    pin = inputs.pinned.get(model.name)
    known = model.sha256 or inputs.files.get(model.name)
    return ModelWanted(
        name=model.name,
        source=model.source,
        revision=model.revision,
        # A digest that somebody wrote himself may be of another commit than what was pinned.
        commit=pin.commit if pin and known in (None, pin.sha256) else None,
        sha256=known or (pin.sha256 if pin else None),
        push_from=model.source.removeprefix("file:") if model.source.startswith("file:") and not hive.local else None,
    )


def _runs(seen: HiveActual, worker_id: str) -> bool:
    """Whether it is there and well. An unloaded one is: starting it is its hive's matter, when it is asked for."""
    return any(w.worker_id == worker_id and w.status in ("ready", "busy", "unloaded") for w in seen.workers)


def _lacking(provider: EngineProvider, hive: str, seen: HiveActual, subject: str) -> list[Problem]:
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


def _begin_nothing(draft: _Draft, seen: HiveActual, running: Mapping[str, str], drafts: Mapping[str, _Draft]) -> None:
    """Want none of a hive's new workers; what runs stays, here and where a worker would have come from."""
    for worker in draft.workers:
        if not _runs(seen, worker.worker_id) and running.get(worker.worker_id) in drafts:
            drafts[running[worker.worker_id]].held.append(worker.worker_id)
    draft.workers = [w for w in draft.workers if _runs(seen, w.worker_id)]
    # What only they would have needed is not brought either; what is there already stays for when they fit.
    models, engines = {w.model for w in draft.workers}, {w.binary_id for w in draft.workers}
    models |= {m.id for m in seen.models}
    engines |= {b.id for b in seen.binaries}
    draft.models = {n: m for n, m in draft.models.items() if n in models}
    draft.engines = {n: e for n, e in draft.engines.items() if n in engines}


def _threads(name: str, draft: _Draft, seen: HiveActual) -> list[Problem]:
    """More threads than cores make every CPU worker many times slower: a hive refuses that, and so does the plan."""
    cores = next((d.cores for d in seen.devices if d.device_type == "cpu"), None)
    wanted = sum(w.options.threads or 1 for w in draft.workers if w.device.startswith("cpu"))
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


def _memory(name: str, draft: _Draft, seen: HiveActual) -> list[Problem]:
    if not seen.memory_available or draft.memory <= seen.memory_available:
        return []
    return [
        Problem(
            summary=f"Not enough memory on hive {name!r}",
            detail=(
                f"Its new CPU workers will take about {draft.memory / 2**20:.0f} MB; "
                f"{seen.memory_available / 2**20:.0f} MB of {seen.memory_total / 2**20:.0f} MB are free."
            ),
            mend="Use a smaller model or context_length, fewer replicas, or another hive.",
            subject=f"hives.{name}",
        )
    ]
