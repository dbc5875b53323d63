# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold before a worker is started: everything that can be known is looked at before, not found by a crash."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rbee.adapters.catalog import BinaryEntry
from rbee.adapters.gguf import GgufHeader
from rbee.contracts.operations.workers import WorkerSpawn
from rbee.core.errors import Insufficient, InvalidRequest, NotFound, RbeeError
from rbee.core.memory import DEFAULT_BATCH, DEFAULT_PARALLEL, context_for, kv_bytes, llama_cpp_bytes
from rbee.core.problems import did_you_mean
from rbee.core.records import Device, ModelRecord

#: Bytes an engine takes beside the model where nothing better is known.
_OVERHEAD = 256 * 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a worker will take. `memory` in bytes, on its device."""

    memory: int
    slots: int
    context_length: int | None


def model_ready(model_id: str, models: Sequence[ModelRecord]) -> ModelRecord:
    """The model's record. Raises NotFound, or RbeeError `model_not_available` with the reason."""
    record = next((m for m in models if m.id == model_id), None)
    if record is None:
        raise NotFound(
            f"There is no model {model_id!r} on this hive.",
            code="model_not_found",
            mend=did_you_mean(model_id, [m.id for m in models]) or "Download it first.",
        )
    if record.status != "available":
        why = record.error or "it is being downloaded"
        raise RbeeError(f"The model {model_id!r} cannot be used: {why}", code="model_not_available")
    return record


def choose_device(request: WorkerSpawn, devices: Sequence[Device]) -> Device:
    """The device asked for. Raises NotFound naming what is there."""
    for device in devices:
        if (device.device_type, device.device_id) == (request.worker, request.device):
            return device
    wanted = "cpu" if request.worker == "cpu" else f"{request.worker}:{request.device}"
    raise NotFound(
        f"There is no device {wanted} on this hive.",
        code="device_not_found",
        mend=f"It has: {', '.join(d.id for d in devices)}.",
    )


def choose_engine(
    request: WorkerSpawn, model: ModelRecord, entries: Iterable[BinaryEntry], cpu_flags: Sequence[str], arch: str
) -> BinaryEntry:
    """The newest installed engine that can. Raises NotFound `no_engine`, RbeeError `cpu_not_supported`."""
    named = [e for e in entries if request.engine in (None, e.artifact.engine)]
    able = [e for e in named if e.runs(request.worker, model.format)]
    if not able:
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


def needs_of(request: WorkerSpawn, model: ModelRecord, header: GgufHeader | None) -> Needs:
    """Memory, slots and context. For GGUF by llama.cpp's own formula (see `core.memory`), else from the file's
    size."""
    options = request.options
    slots = options.parallel or DEFAULT_PARALLEL
    if header is None or not header.shape.layers:
        return Needs(memory=model.size_bytes + _OVERHEAD, slots=slots, context_length=options.context_length)
    shape = header.shape
    context = context_for(shape.context_length or None, options.context_length)
    if request.worker != "cpu":
        memory = shape.tensor_bytes + kv_bytes(shape, context, slots) + _OVERHEAD
    else:
        memory = llama_cpp_bytes(shape, context=context, parallel=slots, batch=options.batch_size or DEFAULT_BATCH)
    return Needs(memory=memory, slots=slots, context_length=context)


def check_memory(model: ModelRecord, needs: Needs, device: Device, available: int) -> None:
    """Raises Insufficient `insufficient_memory` with both numbers when the worker will not fit."""
    if device.device_type != "cpu":
        if device.vram_free_mb is None:
            return
        available = device.vram_free_mb * 2**20
    if needs.memory <= available:
        return
    context = f" with {needs.slots} slots of {needs.context_length} tokens" if needs.context_length else ""
    raise Insufficient(
        f"Not enough memory for {model.id!r} on {device.id}: it needs about {needs.memory / 1e6:,.0f} MB{context}, "
        f"and {available / 1e6:,.0f} MB are available.",
        code="insufficient_memory",
        mend="Give it a smaller context_length or parallel, take a smaller quantization, or stop another worker.",
    )


def share_threads(wanted: int | None, cores: int, given: dict[str, int]) -> int:
    """CPU threads for a new worker: what it asks for, else half of what is left, at least one.

    Never more busy threads than cores over all workers: on two cores a second thread on a busy core makes both
    about ten times slower. Raises Insufficient `no_free_cores`, InvalidRequest when it asks for more than there
    are at all.
    """
    if wanted is not None and wanted > cores:
        raise InvalidRequest(f"It asks for {wanted} threads; the machine has {cores} cores.")
    free = cores - sum(given.values())
    need = wanted or 1
    if need > free:
        who = ", ".join(f"{name} {threads}" for name, threads in sorted(given.items()))
        raise Insufficient(
            f"It needs {need} CPU threads; {max(free, 0)} of {cores} cores are left ({who or 'none given'}).",
            code="no_free_cores",
            mend="Stop a worker, give them fewer `options.threads`, or place it on another hive.",
        )
    return wanted or -(-free // 2)
