# SPDX-License-Identifier: GPL-3.0-or-later
"""Every operation of a hive once, in an order in which each finds what it needs: what is asked, told and answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SMALL = {"context_length": 512, "parallel": 1}
#: Stand in the fields of a step for what is known only when it runs.
PID, BINARY = "<pid of w1>", "<id of the engine>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`tells`: events in this order, others may stand between them; `fields_of` what an event has beside its text.
    `answers`: path and value; `...` is anything but nothing. `alone`: the code it is refused with without a daemon."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    tells: tuple[str, ...]
    fields_of: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, Any]
    alone: str = ""
    #: What stands for `answers` there.
    answers_alone: dict[str, Any] | None = None


_BEE = {"model_id": "bee-tiny"}
_W1 = {"worker_id": "w1", "pid": ..., "port": ..., "status": "ready"}

MODELS = (
    Step(
        name="ModelDownload",
        fields={"model": "builtin:bee-tiny"},
        tells=("model_download_start", "model_download_progress", "model_download_complete"),
        fields_of={"model_download_progress": {"bytes_downloaded": ..., "total_bytes": 2458208}},
        answers={"model_id": "bee-tiny", "status": "available", "size_bytes": 2458208, "checksum": ...},
    ),
    Step(
        name="ModelDownload",
        fields={"model": "builtin:bee-tiny", "model_id": "another"},
        tells=("model_download_start", "model_download_complete"),
        answers={"model_id": "another"},
    ),
    Step(
        name="ModelList",
        tells=("model_list_entry", "model_list_entry", "model_list_result"),
        fields_of={"model_list_result": {"count": 2}},
        answers={"models.1.id": "bee-tiny", "models.1.architecture": "llama", "models.1.quantization": "Q8_0"},
    ),
    Step(
        name="ModelGet",
        fields=_BEE,
        tells=("model_get_result",),
        fields_of={"model_get_result": {**_BEE, "status": "available", "size_bytes": 2458208}},
        answers={"model.id": "bee-tiny", "model.parameter_count": "2.3M", "chat_template": ...},
    ),
    Step(
        name="ModelVerify",
        fields=_BEE,
        tells=("model_verify_start", "model_verify_progress", "model_verify_complete"),
        fields_of={"model_verify_complete": {"verified": True, "against": "source", "checksum": ...}},
        answers={"verified": True, "against": "source", "size_bytes": 2458208},
    ),
    Step(
        name="ModelPreload",
        fields=_BEE,
        tells=("model_preload_start", "model_preload_progress", "model_preload_complete"),
        fields_of={"model_preload_progress": {"bytes_loaded": ..., "total_bytes": 2458208}},
        answers={"model_id": "bee-tiny", "resident_bytes": 2458208},
        alone="no_daemon",
    ),
)
PRELOADED = (
    Step(
        name="ModelPreloadStats",
        tells=("model_preload_stats",),
        fields_of={"model_preload_stats": {"models": ..., "hits": 0, "misses": 0}},
        answers={"cached_models": ["bee-tiny"], "total_size_bytes": 2458208, "budget_bytes": ...},
        answers_alone={"cached_models": [], "total_size_bytes": 0, "budget_bytes": ...},
    ),
    Step(
        name="ModelPreloadEvict",
        fields=_BEE,
        tells=("model_preload_evict_start", "model_preload_evict_complete"),
        fields_of={"model_preload_evict_complete": {**_BEE, "freed_bytes": ...}},
        answers={"model_id": "bee-tiny", "freed_bytes": ...},
        alone="not_preloaded",
    ),
)
WORKERS = (
    Step(
        name="WorkerSpawn",
        fields={"model": "bee-tiny", "worker_id": "w1", "options": SMALL},
        tells=("worker_spawn_start", "worker_spawn_memory", "worker_spawn_health_check", "worker_spawn_complete"),
        fields_of={"worker_spawn_complete": {"worker_id": "w1", "pid": ..., "port": ...}},
        answers={"worker_id": "w1", "status": "ready", "pid": ..., "port": ..., "url": ...},
    ),
    Step(
        name="WorkerProcessList",
        tells=("worker_proc_list_start", "worker_proc_list_entry", "worker_proc_list_result"),
        fields_of={"worker_proc_list_entry": _W1, "worker_proc_list_result": {"count": 1}},
        answers={"workers.0.worker_id": "w1", "workers.0.memory_mb": ..., "workers.0.health_status": "healthy"},
        answers_alone={"workers.0.worker_id": "w1", "workers.0.memory_mb": ...},
    ),
    Step(
        name="WorkerProcessGet",
        fields={"pid": PID},
        tells=("worker_proc_get_result",),
        fields_of={"worker_proc_get_result": _W1},
        answers={"worker.worker_id": "w1", "worker.model": "bee-tiny", "worker.started_at": ...},
    ),
    Step(
        name="WorkerLogs",
        fields={"worker_id": "w1", "tail": 1},
        tells=("worker_logs_line",),
        fields_of={"worker_logs_line": {"worker_id": "w1", "line": ..., "time": ...}},
        answers={"worker_id": "w1", "lines": 1},
    ),
    Step(
        name="DeviceList",
        tells=("device_list_entry", "device_list_result"),
        fields_of={"device_list_entry": {"device": "cpu"}, "device_list_result": {"count": ...}},
        answers={"devices.0.id": "cpu", "devices.0.workers": ["w1"], "reasons": ...},
    ),
    Step(
        name="DeviceGet",
        fields={"device_id": 0, "device_type": "cpu"},
        tells=("device_get_result",),
        fields_of={"device_get_result": {"device": "cpu"}},
        answers={"device.id": "cpu", "device.workers": ["w1"]},
    ),
    Step(
        name="DeviceStats",
        fields={"device_type": "cpu"},
        tells=("device_stats_entry", "device_stats_result"),
        fields_of={"device_stats_entry": {"device": "cpu", "vram_used_mb": ...}, "device_stats_result": {"count": 1}},
        answers={"devices.0.workers": ["w1"], "devices.0.processes.0.worker_id": "w1", "devices.0.vram_used_mb": ...},
    ),
    Step(
        name="SystemStats",
        tells=("system_stats_result",),
        fields_of={"system_stats_result": {"ram_used_gb": ..., "ram_total_gb": ..., "disk_free_gb": ...}},
        answers={"cpu_cores": ..., "ram_total_gb": ..., "uptime_seconds": ..., "load_average": ...},
    ),
    Step(
        name="ProcessList",
        fields={"filter": "python", "limit": 1},
        tells=("process_list_start", "process_list_result"),
        fields_of={"process_list_result": {"count": 1, "total": ...}},
        answers={"total": ..., "processes.0.memory_mb": ..., "processes.0.pid": ...},
    ),
    Step(
        name="HiveStatus",
        tells=("hive_status_result",),
        fields_of={"hive_status_result": {"status": ...}},
        answers={"hive_id": "h1", "workers_running": 1, "models_available": 2, "devices.0.id": "cpu"},
    ),
    Step(
        name="HiveCheck",
        tells=("hive_check_start", "hive_check_step", "hive_check_complete"),
        fields_of={"hive_check_step": {"ok": True}},
        answers={"hive_id": "h1", "checks.0.ok": True, "message": ...},
    ),
    Step(
        name="WorkerRestart",
        fields={"worker_id": "w1", "reason": "to see it done"},
        tells=(
            "worker_restart_start",
            "worker_restart_sigterm",
            "worker_restart_health_check",
            "worker_restart_complete",
        ),
        fields_of={"worker_restart_complete": {"worker_id": "w1", "pid": ..., "port": ..., "restarts": 1}},
        answers={"worker_id": "w1", "pid": ..., "status": "ready"},
    ),
    Step(
        name="WorkerProcessDelete",
        fields={"pid": PID},
        tells=("worker_proc_del_start", "worker_proc_del_sigterm", "worker_proc_del_ok"),
        fields_of={"worker_proc_del_ok": {"worker_id": "w1", "pid": ...}},
        answers={"pid": ..., "message": ...},
    ),
    Step(
        name="WorkerSpawnBatch",
        fields={"workers": [{"model": "nothing"}, {"model": "bee-tiny", "worker_id": "w2", "options": SMALL}]},
        tells=("worker_spawn_batch_start", "worker_spawn_error", "worker_spawn_complete", "worker_spawn_batch_result"),
        fields_of={
            "worker_spawn_error": {"index": 0, "code": "model_not_found"},
            "worker_spawn_complete": {"index": 1, "worker_id": "w2"},
            "worker_spawn_batch_result": {"started": 1, "failed": 1},
        },
        answers={"started": 1, "failed": 1, "workers.0.code": "model_not_found", "workers.1.ok": True},
    ),
    Step(
        name="WorkerUnload",
        fields={"worker_id": "w2", "if_idle": True},
        tells=("worker_unload_start", "worker_unload_sigterm", "worker_unload_complete"),
        fields_of={"worker_unload_complete": {"worker_id": "w2"}},
        answers={"worker_id": "w2", "message": "Worker w2 is unloaded."},
    ),
)
ENDS = (
    Step(
        name="WorkerBinaryCatalogList",
        tells=("worker_binary_list_entry", "worker_binary_list_result"),
        fields_of={"worker_binary_list_entry": {"binary_id": BINARY}, "worker_binary_list_result": {"count": 1}},
        answers={"binaries.0.engine": "llama-cpp", "binaries.0.id": BINARY},
    ),
    Step(
        name="WorkerBinaryCatalogGet",
        fields={"binary_id": BINARY},
        tells=("worker_binary_get_result",),
        fields_of={"worker_binary_get_result": {"binary_id": BINARY, "status": ...}},
        answers={"binary.id": BINARY, "binary.version": ...},
    ),
    Step(
        name="WorkerBinaryCatalogRefresh",
        tells=("worker_binary_refresh_start", "worker_binary_refresh_result"),
        fields_of={"worker_binary_refresh_result": {"found": 1, "added": 0, "removed": 0}},
        answers={"binaries_found": 1, "binaries_added": 0, "binaries_removed": 0},
    ),
    Step(
        name="ModelDelete",
        fields={"model_id": "bee-tiny", "force": True},
        tells=("model_delete_start", "model_delete_worker_stop", "model_delete_complete"),
        fields_of={"model_delete_worker_stop": {"worker_id": "w2"}, "model_delete_complete": {"size_bytes": 2458208}},
        answers={"model_id": "bee-tiny", "message": ...},
    ),
    Step(
        name="ModelDeleteBatch",
        fields={"model_ids": ["bee-tiny", "another"]},
        tells=(
            "model_delete_batch_start",
            "model_delete_error",
            "model_delete_complete",
            "model_delete_batch_complete",
        ),
        fields_of={
            "model_delete_error": {"model_id": "bee-tiny", "code": "model_not_found"},
            "model_delete_batch_complete": {"deleted": 1, "failed": 1},
        },
        answers={"deleted": ["another"], "failed.0.model_id": "bee-tiny", "failed.0.code": "model_not_found"},
    ),
)
#: With a download of `m1` that has stopped half way.
DOWNLOADS = (
    Step(
        name="DownloadList",
        tells=("download_list_result",),
        fields_of={"download_list_result": {"count": 1}},
        answers={"downloads.0.model_id": "m1", "downloads.0.bytes_downloaded": ..., "downloads.0.source": ...},
    ),
    Step(
        name="DownloadPause",
        fields={"download_id": "m1"},
        tells=("model_download_paused",),
        fields_of={"model_download_paused": {"model_id": "m1", "bytes_downloaded": ...}},
        answers={"download_id": "download-m1", "status": "paused", "bytes_downloaded": ...},
        alone="not_running",
    ),
    Step(
        name="DownloadResume",
        fields={"download_id": "m1"},
        tells=("model_download_resumed",),
        fields_of={"model_download_resumed": {"model_id": "m1", "bytes_downloaded": ...}},
        answers={"download_id": "download-m1", "bytes_downloaded": ...},
        alone="no_daemon",
    ),
    Step(
        name="DownloadCancel",
        fields={"download_id": "m1"},
        tells=("model_download_cancelled",),
        fields_of={"model_download_cancelled": {"model_id": "m1", "bytes_downloaded": ...}},
        answers={"download_id": "download-m1", "bytes_downloaded": ...},
    ),
)
TABLE = (*MODELS, *PRELOADED, *WORKERS, *ENDS, *DOWNLOADS)
