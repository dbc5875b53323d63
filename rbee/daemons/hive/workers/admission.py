# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold before a worker is started: everything that can be known is looked at before, not found by a crash."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from rbee.adapters.catalog import BinaryEntry
from rbee.adapters.gguf import GgufHeader
from rbee.adapters.mlc import MlcModel
from rbee.contracts.operations.workers import WorkerSpawn
from rbee.core.errors import InvalidRequest, NotFound, RbeeError
from rbee.core.problems import did_you_mean
from rbee.core.providers import EngineProvider
from rbee.core.records import Device, ModelRecord
from rbee.core.slug import slug
from rbee.daemons.hive.workers.sizing import Needs

_WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
#: Which backend tells of devices of a type.
_BACKENDS = {"cuda": "nvidia", "rocm": "amd", "metal": "apple"}


def check_worker_id(worker_id: str, known: Iterable[str]) -> None:
    """Raises InvalidRequest `bad_worker_id`: the id names a folder, stands in URLs, metrics and logs.

    One that would share a folder with a known one is refused too: by their slugs, on some disks whatever their case.
    """
    if _WORKER_ID.fullmatch(worker_id) is None:
        raise InvalidRequest(
            f"A worker cannot be called {worker_id[:120]!r}.",
            code="bad_worker_id",
            mend="An id is 1 to 100 of the characters A-Z a-z 0-9 . _ - and begins with a letter or a digit.",
            param="worker_id",
        )
    for other in known:
        if other != worker_id and slug(other).lower() == slug(worker_id).lower():
            raise InvalidRequest(
                f"There is a worker {other!r} already, with which {worker_id!r} would share a folder.",
                code="bad_worker_id",
                mend="Give the new one another id.",
                param="worker_id",
            )


def check_port(port: int | None, ports: tuple[int, int]) -> None:
    """Raises InvalidRequest `port_out_of_range`: only the hive's own ports are open to its queen."""
    if port is not None and not ports[0] <= port <= ports[1]:
        raise InvalidRequest(
            f"Port {port} is none of this hive's worker ports, {ports[0]} to {ports[1]}.",
            code="port_out_of_range",
            mend="Leave it out, give one of the range, or widen `worker_ports` of this hive in rbee.yaml.",
            param="port",
        )


def model_ready(model_id: str, models: Sequence[ModelRecord]) -> ModelRecord:
    """The model's record. Raises NotFound, or RbeeError `model_not_available` with the reason."""
    record = next((m for m in models if m.id == model_id), None)
    if record is None:
        raise NotFound(
            f"There is no model {model_id!r} on this hive.",
            code="model_not_found",
            mend=did_you_mean(model_id, [m.id for m in models]) or "Download it first.",
        )
    if record.status == "downloading":
        raise RbeeError(
            f"The model {model_id!r} cannot be used yet: it is being downloaded.",
            code="model_not_available",
            mend="Wait for its download, or go on with one that was paused.",
        )
    if record.status != "available":
        why = record.error or "its files cannot be used."
        raise RbeeError(f"The model {model_id!r} cannot be used: {why}", code="model_not_available")
    return record


def choose_device(
    request: WorkerSpawn,
    devices: Sequence[Device],
    reasons: Mapping[str, str] | None = None,
    broken: Iterable[str] = (),
) -> Device:
    """The device asked for. Raises NotFound `device_not_found` naming what is there; RbeeError `device_not_usable`
    when its driver is there and does not work. `reasons` say why a backend has none, `broken` which of them should."""
    for device in devices:
        if (device.device_type, device.device_id) == (request.worker, request.device):
            return device
    wanted = device_id(request)
    backend = _BACKENDS.get(request.worker, "")
    why = (reasons or {}).get(backend, "")
    if backend in set(broken):
        raise RbeeError(f"The device {wanted} cannot be used: {why}", code="device_not_usable")
    raise NotFound(
        f"There is no device {wanted} on this hive{f' ({why})' if why else ''}.",
        code="device_not_found",
        mend=f"It has: {', '.join(d.id for d in devices)}.",
    )


def device_id(request: WorkerSpawn) -> str:
    """Of the device asked for; a machine has one CPU device, whatever its index."""
    return f"{request.worker}:{request.device}" if request.worker != "cpu" or request.device else "cpu"


def choose_engine(
    request: WorkerSpawn, model: ModelRecord, entries: Iterable[BinaryEntry], cpu_flags: Sequence[str], arch: str
) -> BinaryEntry:
    """The newest installed engine that can. Raises NotFound `no_engine`, RbeeError `cpu_not_supported`."""
    named = [e for e in entries if request.engine in (None, e.artifact.engine)]
    able = [e for e in named if e.runs(request.worker, model.format)]
    if not able:
        _refuse_named(request, model, named)
        broken = "; ".join(f"{e.artifact.id}: {e.artifact.error}" for e in named if e.artifact.error)
        raise NotFound(
            f"No {request.engine or 'engine'} is installed that runs {model.format} models on {request.worker}."
            + (f" ({broken})" if broken else ""),
            code="no_engine",
            mend="`rbee apply` installs what rbee.yaml asks for.",
        )
    best = max(able, key=lambda e: e.added_at)
    assert best.provider is not None
    missing = [f for f in best.provider.needs.cpu_flags.get(arch, ()) if cpu_flags and f not in cpu_flags]
    if missing:
        raise RbeeError(
            f"{best.artifact.engine} needs CPU instructions that this machine lacks: {', '.join(missing)}.",
            code="cpu_not_supported",
            mend=best.provider.needs.hints.get(missing[0], "Place the worker on another hive."),
        )
    return best


def _refuse_named(request: WorkerSpawn, model: ModelRecord, named: Sequence[BinaryEntry]) -> None:
    """An engine that was asked for by name and is well, but is for other models or devices. Raises InvalidRequest."""
    sound = [e.provider for e in named if e.provider is not None and e.artifact.status == "available"]
    if request.engine is None or not sound:
        return
    formats = {f for p in sound for f in p.formats}
    if model.format not in formats:
        raise InvalidRequest(
            f"{request.engine} cannot run {model.id!r}: it reads {' and '.join(sorted(formats))} models, and this one "
            f"is {model.format}.",
            code="wrong_format",
            mend="Leave `engine` out, or take the model in another format.",
            param="engine",
        )
    types = {t for p in sound for t in p.worker_types}
    if request.worker not in types:
        raise InvalidRequest(
            f"{request.engine} does not run on {request.worker}; it runs on {' and '.join(sorted(types))}.",
            code="wrong_device",
            mend="Leave `engine` out, or take another device.",
            param="engine",
        )


def check_options(request: WorkerSpawn, provider: EngineProvider, needs: Needs) -> None:
    """Raises InvalidRequest `option_not_supported` for an option that the engine does not take, and `bad_options` for
    one that cannot be."""
    options, taken = request.options, " ".join(provider.command)
    for name in ("context_length", "parallel", "batch_size", "threads"):
        if getattr(options, name) is not None and f"{{{name}}}" not in taken:
            raise InvalidRequest(
                f"{provider.name} has no option {name}.",
                code="option_not_supported",
                mend="Leave it out, or take another engine.",
                param=f"options.{name}",
            )
    most = needs.context_length * needs.slots if needs.context_length else None
    if options.batch_size is not None and most is not None and options.batch_size > most:
        raise InvalidRequest(
            f"A batch of {options.batch_size:,} tokens cannot be: its {needs.slots} slots of {needs.context_length:,} "
            f"tokens hold {most:,}.",
            code="bad_options",
            mend="Give it a smaller batch_size, or leave it out.",
            param="options.batch_size",
        )
    limit = options.memory_limit_mb
    if limit is not None and request.worker == "cpu" and limit * 10**6 < needs.memory:
        raise InvalidRequest(
            f"It will need about {needs.memory / 1e6:,.0f} MB, more than its memory limit of {limit:,} MB: it would be "
            "started anew for ever.",
            code="bad_options",
            mend="Raise memory_limit_mb, or give it a smaller context_length or parallel.",
            param="options.memory_limit_mb",
        )


def check_task(request: WorkerSpawn, provider: EngineProvider, header: GgufHeader | MlcModel | None) -> None:
    """Raises InvalidRequest for a task that the engine (`option_not_supported`) or the model (`wrong_task`) is not
    made for: an engine would answer with numbers that mean nothing."""
    task = request.options.task or "generate"
    if not provider.paths_for(task):
        raise InvalidRequest(
            f"{provider.name} does not {task}.",
            code="option_not_supported",
            mend="Leave the task out, or take another engine.",
            param="options.task",
        )
    if not isinstance(header, GgufHeader):
        return
    if task == "rerank" and not header.classifier:
        raise InvalidRequest(
            f"The model {request.model!r} scores no texts: its file has no classification head.",
            code="wrong_task",
            mend="Take a reranker (bge-reranker, jina-reranker, Qwen3-Reranker), or `task: embed`.",
            param="options.task",
        )
    if task == "generate" and not header.shape.causal:
        raise InvalidRequest(
            f"The model {request.model!r} writes no text: it is an encoder ({header.architecture}).",
            code="wrong_task",
            mend=f"Say `options: {{task: {'rerank' if header.classifier else 'embed'}}}`.",
            param="options.task",
        )
