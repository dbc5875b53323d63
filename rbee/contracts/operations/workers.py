# SPDX-License-Identifier: GPL-3.0-or-later
"""Worker lifecycle (served by the hive) and worker registry (served by the queen)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.contracts.operations.base import operation
from rbee.core.doc import Doc
from rbee.core.records import Mark, WorkerRecord
from rbee.core.spec import WorkerOptions

HiveId = Annotated[str, Doc("Hive to act on; may be left out when asking that hive itself.")]
Pid = Annotated[int, Doc("Process id of the worker.", minimum=1, example=4242, argument=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpawnResponse:
    worker_id: str
    port: int
    pid: int
    status: str
    url: str


@operation(family="worker", command="spawn", response=WorkerSpawnResponse, served_by=("hive",), lane="spawn")
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpawn:
    """Start a worker for a model and wait until it is ready."""

    hive_id: HiveId = ""
    model: Annotated[str, Doc("Id of a model in the hive's catalog.", min_length=1, example="bee-tiny")]
    worker: Annotated[str, Doc("Worker type.", enum=("cpu", "cuda", "metal", "rocm", "vulkan"))] = "cpu"
    device: Annotated[int, Doc("Index of the device of that type.", minimum=0)] = 0
    engine: Annotated[str | None, Doc("Engine provider; default: the first installed that can.")] = None
    worker_id: Annotated[str | None, Doc("Id to give it; made up when left out.")] = None
    port: Annotated[int | None, Doc("Port; default: the first free one of the range.", minimum=1, maximum=65535)] = None
    options: Annotated[WorkerOptions, Doc("How the engine runs the model.")] = field(default_factory=WorkerOptions)
    idle_timeout: Annotated[float | None, Doc("Seconds without a request after which it is unloaded.", minimum=0)] = (
        None
    )
    queen_url: Annotated[str | None, Doc("Where to send heartbeats; default: the hive's queen.")] = None
    mark: Annotated[Mark | None, Doc("The fleet that owns it.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpawned:
    """One of a batch: where it is, or why it is not."""

    model: str
    worker_id: str
    ok: bool
    port: int | None = None
    pid: int | None = None
    url: str | None = None
    error: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpawnBatchResponse:
    """In the order asked for."""

    workers: tuple[WorkerSpawned, ...]
    started: int
    failed: int


@operation(family="worker", command="spawn-batch", response=WorkerSpawnBatchResponse, served_by=("hive",), lane="spawn")
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpawnBatch:
    """Start several workers; one that cannot be started does not keep the others."""

    hive_id: HiveId = ""
    workers: Annotated[tuple[WorkerSpawn, ...], Doc("What to start.", min_items=1, max_items=64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcessListResponse:
    workers: tuple[WorkerRecord, ...]


@operation(family="worker", command="ps", response=WorkerProcessListResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcessList:
    """List the worker processes of a hive."""

    hive_id: HiveId = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcessGetResponse:
    worker: WorkerRecord


@operation(family="worker", command="show", response=WorkerProcessGetResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcessGet:
    """Show one worker process of a hive."""

    hive_id: HiveId = ""
    pid: Pid | None = None
    worker_id: Annotated[str | None, Doc("Instead of `pid`: id of the worker.", min_length=1, argument=True)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcessDeleteResponse:
    message: str
    pid: int


@operation(family="worker", command="kill", response=WorkerProcessDeleteResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcessDelete:
    """Stop a worker process: drain, SIGTERM, then SIGKILL to its process group."""

    hive_id: HiveId = ""
    pid: Pid | None = None
    worker_id: Annotated[
        str | None, Doc("Instead of `pid`; one that failed or is unloaded has no other.", min_length=1, argument=True)
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerUnloadResponse:
    """It has no process any more; `WorkerSpawn` with its id and model brings it back as it was."""

    worker_id: str
    message: str


@operation(family="worker", command="unload", response=WorkerUnloadResponse, served_by=("hive",))
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerUnload:
    """End a worker's process once it is drained, and keep the worker: the next request starts it again."""

    hive_id: HiveId = ""
    worker_id: Annotated[str, Doc("Id of the worker.", min_length=1, example="chat-0")]
    if_idle: Annotated[bool, Doc("Only when it serves no request; otherwise code `worker_busy`.")] = False
    reason: Annotated[str, Doc("Why; told with its status.", max_length=200)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRestartResponse:
    worker_id: str
    pid: int
    status: str


@operation(family="worker", command="restart", response=WorkerRestartResponse, served_by=("hive",), lane="spawn")
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRestart:
    """End a worker's process and start it anew with the same settings; waits until it is ready."""

    hive_id: HiveId = ""
    worker_id: Annotated[str, Doc("Id of the worker.", min_length=1, example="chat-0")]
    drain: Annotated[bool, Doc("Let its requests end first; without it they are cut.")] = True
    reason: Annotated[str, Doc("Why; shown as the reason of its last end.", max_length=200)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLogsResponse:
    """The lines themselves are the events `worker_logs_line` (field `line`)."""

    worker_id: str
    lines: int


@operation(family="worker", command="logs", response=WorkerLogsResponse, served_by=("hive",), lane="logs")
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLogs:
    """Show what a worker and its engine have written, and with `follow` go on until cancelled."""

    hive_id: HiveId = ""
    worker_id: Annotated[str, Doc("Id of the worker.", min_length=1, example="chat-0")]
    tail: Annotated[int, Doc("Only the last so many lines.", minimum=0, maximum=10000)] = 100
    since: Annotated[
        str | None, Doc("Only what is newer: a time (RFC 3339), or a duration back from now such as 10m.")
    ] = None
    follow: Annotated[bool, Doc("Go on with what comes.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerListResponse:
    workers: tuple[WorkerHeartbeat, ...]


@operation(family="worker", command="list", response=WorkerListResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerList:
    """List the workers that the queen knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGetResponse:
    worker: WorkerHeartbeat


@operation(family="worker", command="get", response=WorkerGetResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGet:
    """Show one worker that the queen knows."""

    worker_id: Annotated[str, Doc("Id of the worker.", min_length=1, example="chat-0")]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStopResponse:
    worker_id: str
    hive_id: str
    message: str


@operation(family="worker", command="stop", response=WorkerStopResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStop:
    """Stop a worker that the queen knows, on whichever hive it is: no more requests at once, then drain and end."""

    worker_id: Annotated[str, Doc("Id of the worker.", min_length=1, example="chat-0")]
