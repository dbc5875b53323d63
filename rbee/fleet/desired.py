# SPDX-License-Identifier: GPL-3.0-or-later
"""Spec x what was seen -> Desired: places workers, chooses engines, and tells what cannot be. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rbee.contracts.configs import HiveConfig, QueenConfig, boot_digest, config_digest
from rbee.core.actual import Actual, HiveActual, Unknown, in_place
from rbee.core.desired import Desired, EngineWanted, HiveWanted, ModelWanted, Pin, QueenWanted, WorkerWanted
from rbee.core.digest import digest
from rbee.core.placement import choose_engine, place, worker_ids
from rbee.core.problems import Problem
from rbee.core.providers import EngineProvider, binary_id
from rbee.core.spec import HiveSpec, ModelSpec, Spec, WorkerSpec
from rbee.fleet import lacking
from rbee.fleet.settings import known_workers

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
    #: Without workers, which are found here.
    queen_config: QueenConfig
    hive_configs: Mapping[str, HiveConfig]
    predict: Predict
    pinned: Mapping[str, Pin] = field(default_factory=dict)
    #: SHA-256 of the files of this machine that models come from (`file:`), by model name.
    files: Mapping[str, str] = field(default_factory=dict)
    #: What the queen was told last.
    before: QueenConfig | None = None


@dataclass(slots=True)
class _Draft:
    """What a hive gets, while it is being worked out."""

    engines: dict[str, EngineWanted] = field(default_factory=dict)
    models: dict[str, ModelWanted] = field(default_factory=dict)
    workers: list[WorkerWanted] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    memory: int = 0


def make_desired(inputs: Inputs) -> tuple[Desired, QueenConfig]:
    """Everything wanted, with a problem for each thing that cannot be had; and the queen's settings with the workers
    as they were placed, which are what `Desired` has the digest of."""
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
        problems.extend(_add_all(inputs, worker, worker_ids(worker)[: worker.replicas.min], drafts, running))
    # Those that may never run take a place after all that will.
    for worker in spec.workers.values():
        told = _add_all(inputs, worker, worker_ids(worker)[worker.replicas.min :], drafts, running, on_demand=True)
        problems.extend(told[:1] if worker.replicas.min == 0 else ())
    for name, draft in drafts.items():
        seen = actual.hives.get(name)
        if not isinstance(seen, HiveActual):
            continue
        too_much = [*lacking.memory(name, draft.memory, seen), *lacking.threads(name, draft.workers, seen)]
        if too_much:
            problems.extend(too_much)
            _begin_nothing(draft, seen, running, drafts)
    hives = {name: _wanted(inputs, hive, drafts[name]) for name, hive in spec.hives.items()}
    queen = replace(inputs.queen_config, workers=known_workers(spec, hives, inputs.before))
    wanted = QueenWanted(
        release=inputs.release,
        config_digest=config_digest(queen),
        boot_digest=boot_digest(queen),
        token_digest=inputs.token_digest,
        hives=tuple(spec.hives),
    )
    return Desired(fleet=spec.fleet, queen=wanted, hives=hives, problems=tuple(problems)), queen


def _add_all(
    inputs: Inputs,
    worker: WorkerSpec,
    ids: Sequence[str],
    drafts: Mapping[str, _Draft],
    running: Mapping[str, str],
    *,
    on_demand: bool = False,
) -> list[Problem]:
    """Put some of a worker's replicas into the drafts of the hives that they go to; returns what forbids it."""
    spec, actual = inputs.spec, inputs.actual
    problems: list[Problem] = []
    placed = _place(inputs, worker, ids, drafts, {**(_remembered(inputs) if on_demand else {}), **running})
    if worker.hive is None and ids and not placed:
        problems.append(lacking.nowhere(worker, spec.hives))
    for worker_id in ids:
        hive = placed.get(worker_id, "")
        seen, refused = actual.hives.get(hive), list[Problem]()
        usable = isinstance(seen, HiveActual) and not seen.problems
        if isinstance(seen, HiveActual) and usable:
            refused = _add(inputs, drafts[hive], spec.hives[hive], seen, worker, worker_id, on_demand)
        problems.extend(refused)
        if (not usable or refused) and running.get(worker_id) in drafts:
            drafts[running[worker_id]].held.append(worker_id)
    return problems


def _remembered(inputs: Inputs) -> dict[str, str]:
    """Where the queen was told to start what she starts: it goes nowhere else without need, whatever else came."""
    return {w.worker_id: w.hive_id for w in (inputs.before.workers if inputs.before else ())}


def _place(
    inputs: Inputs, worker: WorkerSpec, ids: Sequence[str], drafts: Mapping[str, _Draft], running: Mapping[str, str]
) -> dict[str, str]:
    """Hive of each replica: one that can run it where there is one, else one that fits by its labels (and then
    has a problem to tell). A replica on a machine that has a problem now is not moved for that."""
    hives, actual = inputs.spec.hives, inputs.actual.hives
    stuck = {h for w in ids if (h := running.get(w)) in hives and _problems(actual.get(h))}
    usable = {n: h for n, h in hives.items() if n in stuck or _problems(actual.get(n)) == ()}
    able = {n: h for n, h in usable.items() if n in stuck or _able(inputs, actual[n], n, worker)}
    load = {n: float(len(d.workers)) for n, d in drafts.items()}
    return place(ids, worker, able, running, load) or place(ids, worker, usable, running, load)


def _problems(seen: HiveActual | Unknown | None) -> tuple[Problem, ...] | None:
    """Of a machine; None when it was not seen."""
    return seen.problems if isinstance(seen, HiveActual) else None


def _able(inputs: Inputs, seen: HiveActual | Unknown, hive: str, worker: WorkerSpec) -> bool:
    """Whether a machine has a device and an engine for a worker."""
    if not isinstance(seen, HiveActual):
        return False
    choice = choose_engine(worker, inputs.spec.models[worker.model], seen.devices, inputs.providers)
    return not isinstance(choice, str) and not lacking.lacking(choice[0], hive, seen, "")


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


def _add(
    inputs: Inputs,
    draft: _Draft,
    hive: HiveSpec,
    seen: HiveActual,
    worker: WorkerSpec,
    worker_id: str,
    on_demand: bool,
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
    if missing := lacking.lacking(provider, hive.name, seen, subject):
        return missing
    binary = binary_id(provider, seen.platform)
    draft.engines[binary] = EngineWanted(binary_id=binary, engine=provider.name)
    draft.models[model.name] = _model(inputs, model, hive)
    if device.startswith("cpu") and not on_demand and not _runs(seen, worker_id):
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
            on_demand=on_demand,
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
    return any(w.worker_id == worker_id and in_place(w) and w.status != "starting" for w in seen.workers)


def _begin_nothing(draft: _Draft, seen: HiveActual, running: Mapping[str, str], drafts: Mapping[str, _Draft]) -> None:
    """Want none of a hive's new workers; what runs stays, here and where a worker would have come from."""
    for worker in draft.workers:
        if not _runs(seen, worker.worker_id) and running.get(worker.worker_id) in drafts:
            drafts[running[worker.worker_id]].held.append(worker.worker_id)
    there = {m.id for m in seen.models}, {b.id for b in seen.binaries}
    draft.workers = [
        w
        for w in draft.workers
        if _runs(seen, w.worker_id) or (w.on_demand and w.model in there[0] and w.binary_id in there[1])
    ]
    # What only they would have needed is not brought either; what is there already stays for when they fit.
    models = {w.model for w in draft.workers} | there[0]
    engines = {w.binary_id for w in draft.workers} | there[1]
    draft.models = {n: m for n, m in draft.models.items() if n in models}
    draft.engines = {n: e for n, e in draft.engines.items() if n in engines}
