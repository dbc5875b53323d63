# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker that was unloaded comes back as it was, for whoever names it and says no more than its model."""

from __future__ import annotations

from dataclasses import replace

from rbee.contracts.operations.workers import WorkerSpawn
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.workers.managed import Managed


def as_before(request: WorkerSpawn, worker: Managed | None) -> WorkerSpawn:
    """The request, filled in with what the unloaded worker of that name was asked for; as it is, where there is none
    such, or where the request itself says how it wants it."""
    if worker is None or worker.state.status != "unloaded" or worker.config.model != request.model:
        return request
    says_how = (request.engine, request.port, request.idle_timeout, request.mark)
    if any(said is not None for said in says_how) or request.options != WorkerOptions():
        return request
    was = as_it_was(worker)
    return replace(was, hive_id=request.hive_id, port=request.port, queen_url=request.queen_url)


def as_it_was(worker: Managed) -> WorkerSpawn:
    """The request that makes a worker anew, with its id, its settings and its mark. Which port it has is the hive's
    choice again, unless it was asked for."""
    config, state = worker.config, worker.state
    # Threads that were its share of the cores at that time are shared anew.
    threads = config.options.threads if state.threads_asked else None
    _, _, index = config.device.partition(":")
    return WorkerSpawn(
        model=config.model,
        worker=config.worker_type,
        device=int(index or 0),
        engine=config.provider.name,
        worker_id=worker.id,
        port=None if state.port_chosen else state.port,
        options=replace(config.options, threads=threads),
        idle_timeout=config.idle_timeout,
        queen_url=None if config.queen_trusted else config.queen_url,
        mark=state.mark,
    )
