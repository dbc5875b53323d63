# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker will take of its machine (memory, slots, context, threads), and whether that is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rbee.adapters.gguf import GgufHeader
from rbee.adapters.mlc import MlcModel
from rbee.contracts.operations.workers import WorkerSpawn
from rbee.core.errors import Insufficient, InvalidRequest
from rbee.core.memory import DEFAULT_PARALLEL, context_for, embedding_bytes, kv_bytes, mlc_bytes, window, worker_bytes
from rbee.core.records import Device, ModelRecord

#: Bytes an engine takes beside the model where nothing better is known.
_OVERHEAD = 256 * 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a worker will take. `memory` in bytes, on its device: by the formula, or as others were measured."""

    memory: int
    slots: int
    context_length: int | None
    basis: Literal["formula", "measured"] = "formula"


def needs_of(request: WorkerSpawn, model: ModelRecord, header: GgufHeader | MlcModel | None) -> Needs:
    """Memory, slots and context, by formula (all in bytes; `core.memory` has the parts and their sources).

    - GGUF on a CPU: `38 MB + tensors + layers*context*slots*kv_heads*(key+value width)*2 + 4*batch*(3*FF + 4*D)
      + 250*vocabulary` (`llama_cpp_bytes`).
    - The same, to embed or rerank: what a step over a whole input takes besides (`embedding_bytes`).
    - GGUF on a GPU: `tensors + keys and values as above + 256 MB` of overhead.
    - MLC: its own estimate (`mlc_bytes`).
    - Nothing known of the model: the size of its files + 256 MB.
    """
    options = request.options
    slots = options.parallel or DEFAULT_PARALLEL
    if header is None or not header.shape.layers:
        return Needs(memory=model.size_bytes + _OVERHEAD, slots=slots, context_length=options.context_length)
    shape = header.shape
    if isinstance(header, MlcModel):
        context = context_for(shape.context_length or None, options.context_length)
        chunk = options.batch_size or header.prefill_chunk
        memory = mlc_bytes(shape, context=context, parallel=slots, prefill_chunk=chunk)
        return Needs(memory=memory, slots=slots, context_length=context)
    given = window(
        options.task,
        trained=shape.context_length or None,
        causal=shape.causal,
        context_length=options.context_length,
        batch_size=options.batch_size,
    )
    if request.worker == "cpu":
        memory = worker_bytes(shape, options.task, given=given, parallel=slots)
    elif options.task in (None, "generate"):
        memory = shape.tensor_bytes + kv_bytes(shape, given.context, slots) + _OVERHEAD
    else:
        memory = embedding_bytes(shape, context=given.context, parallel=slots) + _OVERHEAD
    return Needs(memory=memory, slots=slots, context_length=given.context)


def notes_of(request: WorkerSpawn, needs: Needs) -> tuple[str, ...]:
    """What is done otherwise than asked, for a person."""
    asked = request.options.context_length
    if asked is None or needs.context_length is None or needs.context_length >= asked:
        return ()
    return (
        f"The model was trained for {needs.context_length:,} tokens of context: it gets those, not {asked:,}. "
        "Beyond them its answers would make no sense.",
    )


def available_on(device: Device, memory: int, starting: int) -> int | None:
    """Bytes that a new worker may take: of the machine's (`memory`) on a CPU and where a GPU has none of its own; else
    of the GPU's, less `starting` bytes that were granted and are not taken yet. None when nobody can tell."""
    if device.device_type == "cpu" or (device.device_type == "metal" and device.vram_free_mb is None):
        return max(0, memory)
    return None if device.vram_free_mb is None else max(0, device.vram_free_mb * 2**20 - starting)


def check_memory(model: ModelRecord, needs: Needs, device: Device, available: int | None) -> None:
    """Raises Insufficient `insufficient_memory` with both numbers when the worker will not fit."""
    if available is None or needs.memory <= available:
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
            f"It needs {need} CPU thread{'' if need == 1 else 's'}; {max(free, 0)} of {cores} cores are left "
            f"({who or 'none given'}).",
            code="no_free_cores",
            mend="Stop a worker, give them fewer `options.threads`, or place it on another hive.",
        )
    return wanted or -(-free // 2)
