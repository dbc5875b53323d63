# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hive, device and engine a worker gets. Pure and steady: what runs well is not moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rbee.core.providers import EngineProvider
from rbee.core.records import Device
from rbee.core.spec import HiveSpec, ModelSpec, WorkerSpec

#: `auto` takes the first of these that the hive has and an engine can use.
PREFERENCE = ("cuda", "metal", "rocm", "vulkan", "cpu")


def model_format(model: ModelSpec) -> str:
    """`gguf` or `mlc`: what is said of it, else by its source's name, which the MLC project ends in `-MLC`."""
    plain = model.source.split("?", 1)[0].rstrip("/")
    return model.format or ("mlc" if plain.upper().endswith("-MLC") else "gguf")


def choose_engine(
    worker: WorkerSpec, model: ModelSpec, devices: Sequence[Device], providers: Sequence[EngineProvider]
) -> tuple[EngineProvider, str] | str:
    """The engine and the device id (`cpu`, `cuda:0`) for a worker, or a sentence why there is none."""
    wanted = model_format(model)
    named = [p for p in providers if worker.engine in (None, p.name)]
    able = [p for p in named if wanted in p.formats]
    if not able:
        who = f"engine {worker.engine!r}" if worker.engine else "any engine"
        return f"{model.source} is a {wanted} model, which {who} cannot read"
    ids = {d.id: d for d in devices}
    if worker.device != "auto":
        device = ids.get(worker.device)
        if device is None:
            return f"there is no device {worker.device!r}; it has {', '.join(sorted(ids)) or 'none'}"
        for provider in able:
            if device.device_type in provider.worker_types:
                return provider, device.id
        return f"no engine runs a {wanted} model on {worker.device}"
    for kind in PREFERENCE:
        for device in sorted(devices, key=lambda d: (d.device_type != kind, d.device_id)):
            if device.device_type == kind:
                for provider in able:
                    if kind in provider.worker_types:
                        return provider, device.id
    return f"no device of it can run a {wanted} model (it has {', '.join(sorted(ids)) or 'none'})"


def worker_ids(worker: WorkerSpec) -> tuple[str, ...]:
    """`chat-0`, `chat-1`, ...: ids of a worker's replicas, unique in the fleet because names are."""
    return tuple(f"{worker.name}-{i}" for i in range(worker.replicas.max))


def place(
    worker_ids: Sequence[str],
    worker: WorkerSpec,
    hives: Mapping[str, HiveSpec],
    running: Mapping[str, str],
    load: Mapping[str, float],
) -> dict[str, str]:
    """Hive of each replica. `running` says where a worker of that id lives now, `load` how full a hive is.

    A named hive gets all. Otherwise each replica stays where it lives if that hive's labels still fit, and a new
    one goes to the fitting hive with the least load (replicas already given to it count). Empty when none fits.
    """
    if worker.hive is not None:
        return dict.fromkeys(worker_ids, worker.hive)
    labels = worker.where.labels if worker.where else {}
    fitting = [n for n, h in hives.items() if all(h.labels.get(k) == v for k, v in labels.items())]
    if not fitting:
        return {}
    out = {w: running[w] for w in worker_ids if running.get(w) in fitting}
    given = {n: load.get(n, 0.0) + sum(1 for h in out.values() if h == n) for n in fitting}
    for worker_id in worker_ids:
        if worker_id not in out:
            best = min(fitting, key=lambda n: (given[n], n))
            out[worker_id] = best
            given[best] += 1
    return out
