# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of models, workers and aliases: the rest of `rbee.core.checks`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rbee.core.checks import Finding, Scene, fits, is_loopback, port_range, unknown_name
from rbee.core.document import Path
from rbee.core.errors import InvalidRequest
from rbee.core.model_files import shards
from rbee.core.placement import model_format
from rbee.core.problems import did_you_mean
from rbee.core.sources import check, provider_of, rest_of, unknown
from rbee.core.spec import HiveSpec, ModelSpec, WorkerSpec

_URL = re.compile(r"https?://(?:(?P<user>[^/@]*)@)?(?P<host>\[[^\]]+\]|[^/:?#]+)(?::[0-9]+)?/.", re.IGNORECASE)


def check_models(scene: Scene) -> Iterator[Finding]:
    for name, model in scene.spec.models.items():
        yield from _source(scene, name, model)
        provider = provider_of(model.source, scene.sources)
        if model.revision is not None and provider is not None and provider.protocol != "huggingface":
            yield Finding(
                path=("models", name, "revision"),
                summary="`revision` is for sources of Hugging Face only.",
                mend="Remove it; a release and an Ollama model have a tag, and `sha256` pins any source.",
                key=True,
            )


def _source(scene: Scene, name: str, model: ModelSpec) -> Iterator[Finding]:
    path, source = ("models", name, "source"), model.source
    provider = provider_of(source, scene.sources)
    if provider is None:
        if scene.sources and not scene.damaged("sources"):
            summary, mend = unknown(source, scene.sources)
            yield Finding(path=path, summary=summary, mend=mend)
        return
    rest = rest_of(provider, source)
    try:
        check(provider, source)
    except InvalidRequest as e:
        yield Finding(path=path, summary=e.message, mend=e.mend)
        return
    if provider.protocol == "builtin" and rest not in scene.builtins:
        yield unknown_name(path, "built-in model", rest, list(scene.builtins))
    elif source.startswith("file:"):
        yield from _file(scene, path, model)
    elif provider.protocol == "url":
        yield from _url(path, model)


def _file(scene: Scene, path: Path, model: ModelSpec) -> Iterator[Finding]:
    """A file of this machine, as `rbee.core.resolve` has made its path absolute."""
    file = model.source.removeprefix("file:")
    kind = scene.kind(file)
    if kind == "missing":
        detail = f"{file} is looked for on this machine, from the folder of the file that names it."
        yield Finding(path=path, summary="There is no such model file.", detail=detail, mend="Check the path.")
        return
    if kind == "directory" and model_format(model) == "gguf":
        mend = "Name the .gguf file in it, or say `format: mlc` beside it."
        yield Finding(path=path, summary="The model file is a directory.", detail=f"It is {file}.", mend=mend)
        return
    try:
        files = shards(file)
    except InvalidRequest as e:
        yield Finding(path=path, summary=e.message, mend=e.mend)
        return
    missing = [p for p in files if scene.kind(p) == "missing"]
    if missing:
        summary = f"{len(missing)} of the {len(files)} parts of the model are not there."
        yield Finding(path=path, summary=summary, detail=f"The first is {missing[0]}.", mend="Bring all of them.")


def _url(path: Path, model: ModelSpec) -> Iterator[Finding]:
    found = _URL.match(model.source)
    if found is None:
        summary = "The URL has a port that is no number."
        yield Finding(path=path, summary=summary, mend="Write https://HOST:PORT/PATH/FILE.gguf.")
        return
    if found["user"]:
        detail = "A password in a URL ends up in logs and shell histories."
        yield Finding(path=path, summary="The URL has a login in it.", detail=detail, mend="Remove it.")
    if model.source.lower().startswith("http:") and not model.sha256 and not is_loopback(found["host"].strip("[]")):
        detail = "Anyone between here and there can change what comes over http."
        yield Finding(
            path=path, summary="http: asks for a digest.", detail=detail, mend="Add `sha256:`, or use https:."
        )


def check_aliases(scene: Scene) -> Iterator[Finding]:
    aliases, models = scene.aliases, scene.known("models")
    for name, targets in aliases.items():
        if name in models:
            detail = "Clients that ask for it would get the model; the alias would never be used."
            summary = f"The alias {name!r} is a model's name too."
            yield Finding(path=("aliases", name), summary=summary, detail=detail, mend="Rename it.", key=True)
            continue
        for target in targets:
            if target not in models and target not in aliases and not scene.damaged("aliases", target):
                path: Path = ("aliases", name)
                yield unknown_name(path, "model", target, sorted({*models, *aliases} - {name}))
        circle = _circle(name, aliases, frozenset(models))
        if circle and name == min(circle):
            shown = " -> ".join([*circle, circle[0]])
            mend = "Let one of them name a model."
            yield Finding(path=("aliases", name), summary=f"The aliases go in a circle: {shown}.", mend=mend)


def _circle(start: str, aliases: Mapping[str, tuple[str, ...]], models: frozenset[str]) -> list[str]:
    """The way from an alias back to itself, or nothing."""
    waiting: list[list[str]] = [[start]]
    seen: set[str] = set()
    while waiting:
        way = waiting.pop()
        for target in aliases.get(way[-1], ()):
            if target == start:
                return way
            if target in aliases and target not in seen and target not in models:
                seen.add(target)
                waiting.append([*way, target])
    return []


def check_workers(scene: Scene) -> Iterator[Finding]:
    for name, worker in scene.spec.workers.items():
        yield from _model(scene, name, worker)
        yield from _hive(scene, name, worker)
        yield from _engine(scene, name, worker)
        yield from _replicas(name, worker)
    yield from _enough_ports(scene)


def _model(scene: Scene, name: str, worker: WorkerSpec) -> Iterator[Finding]:
    path: Path = ("workers", name, "model")
    if worker.model in scene.aliases and worker.model not in scene.known("models"):
        ends = scene.spec.aliases.get(worker.model, ())
        mend = f"Name the model: {ends[0]}." if ends else "Name a model."
        yield Finding(path=path, summary=f"{worker.model!r} is an alias; a worker runs a model.", mend=mend)
    elif worker.model not in scene.known("models"):
        yield unknown_name(path, "model", worker.model, scene.known("models"), "Add it to `models:`.")


def _hive(scene: Scene, name: str, worker: WorkerSpec) -> Iterator[Finding]:
    known = scene.known("hives")
    if worker.hive is not None and worker.where is not None:
        detail = "`hive` names one; `where` lets rbee choose among several."
        summary = f"The worker {name!r} says both `hive` and `where`."
        yield Finding(path=("workers", name, "where"), summary=summary, detail=detail, mend="Remove one.", key=True)
    elif worker.hive is not None:
        if worker.hive not in known:
            yield unknown_name(("workers", name, "hive"), "hive", worker.hive, known, "Add it to `hives:`.")
    elif scene.damaged("workers", name) or scene.damaged("hives"):
        return
    elif not known:
        mend = "For this machine, add `hives: {localhost: {}}`."
        yield Finding(path=("workers", name), summary=f"No hive can run {name!r}.", mend=mend, key=True)
    elif worker.where is None:
        mend = f"Write `hive: {known[0]}` (of {', '.join(known)}), or `where: {{labels: ...}}`."
        yield Finding(path=("workers", name), summary=f"The worker {name!r} has no hive.", mend=mend, key=True)
    elif not any(fits(hive, worker.where.labels) for hive in scene.spec.hives.values()):
        yield _no_labels(("workers", name, "where"), worker.where.labels, scene.spec.hives)


def _no_labels(path: Path, wanted: Mapping[str, str], hives: Mapping[str, HiveSpec]) -> Finding:
    """Says which label no hive has, or that no one hive has them all."""
    for key, value in wanted.items():
        values = sorted({h.labels[key] for h in hives.values() if key in h.labels})
        if value in values:
            continue
        keys = sorted({k for h in hives.values() for k in h.labels})
        mend = did_you_mean(value, values) if values else did_you_mean(key, keys)
        return Finding(
            path=(*path, "labels", key),
            summary=f"No hive has the label {key}: {value}.",
            mend=mend or "Add `labels:` to a hive.",
        )
    shown = ", ".join(f"{key}: {value}" for key, value in wanted.items())
    return Finding(path=(*path, "labels"), summary=f"No one hive has all of {shown}.", mend="Ask for fewer labels.")


def _engine(scene: Scene, name: str, worker: WorkerSpec) -> Iterator[Finding]:
    if worker.engine is not None and worker.engine not in scene.providers:
        if not scene.damaged("engines", worker.engine):
            yield unknown_name(("workers", name, "engine"), "engine", worker.engine, sorted(scene.providers))
        return
    model = scene.spec.models.get(worker.model)
    if model is None or not scene.providers:
        return
    wanted = model_format(model)
    named = [p for p in scene.providers.values() if worker.engine in (None, p.name)]
    able = [p for p in named if wanted in p.formats]
    said = f"The engine {worker.engine!r}" if worker.engine else "No engine"
    if not able:
        verb = "cannot read" if worker.engine else "reads"
        formats = ", ".join(sorted({f for p in scene.providers.values() for f in p.formats}))
        path: Path = ("workers", name, "engine") if worker.engine else ("workers", name, "model")
        summary = f"{said} {verb} {wanted} models."
        yield Finding(path=path, summary=summary, detail=f"{worker.model} is one.", mend=f"There is: {formats}.")
        return
    kind = worker.device.split(":")[0]
    types = sorted({str(t) for p in able for t in p.worker_types})
    if kind != "auto" and kind not in types:
        verb = "cannot run on" if worker.engine else f"runs {wanted} models on"
        mend = f"It can be: {', '.join(types)}."
        yield Finding(path=("workers", name, "device"), summary=f"{said} {verb} {kind}.", mend=mend)


def _replicas(name: str, worker: WorkerSpec) -> Iterator[Finding]:
    least, most = worker.replicas.min, worker.replicas.max
    if most < least:
        yield Finding(
            path=("workers", name, "replicas", "max"),
            summary=f"`max` is {most}, less than `min`, which is {least}.",
            detail="`min` processes always run; the queen starts more, up to `max`, when requests wait.",
            mend=f"Write `replicas: {{min: {most}, max: {least}}}`.",
        )


def _enough_ports(scene: Scene) -> Iterator[Finding]:
    """A port for each worker: those of a named hive there, the others on some hive that fits."""
    free = {}
    for name, hive in scene.spec.hives.items():
        first, last = port_range(hive.worker_ports)
        if first <= last:
            free[name] = last - first + 1
    asked: dict[str, int] = {}
    for worker in scene.spec.workers.values():
        if worker.hive in free:
            asked[worker.hive] = asked.get(worker.hive, 0) + worker.replicas.max
    for name, number in asked.items():
        if number > free[name]:
            ports = scene.spec.hives[name].worker_ports
            summary = f"{number} workers go to {name!r}, which has fewer ports for them ({ports})."
            mend = "Widen `worker_ports`, or ask for fewer replicas."
            yield Finding(path=("hives", name, "worker_ports"), summary=summary, mend=mend, key=True)
    for name, worker in scene.spec.workers.items():
        if worker.where is None or worker.hive is not None:
            continue
        hives = [n for n in free if fits(scene.spec.hives[n], worker.where.labels)]
        left = sum(max(0, free[n] - asked.get(n, 0)) for n in hives)
        if hives and worker.replicas.max > left:
            summary = f"{worker.replicas.max} replicas, but the hives that fit have {left} ports left."
            yield Finding(path=("workers", name, "replicas"), summary=summary, mend="Widen their `worker_ports`.")
