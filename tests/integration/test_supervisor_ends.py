# SPDX-License-Identifier: GPL-3.0-or-later
"""Two who end one worker at once: it is forgotten once, and what comes after it under its name is left alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rbee.contracts.configs import WorkerConfig
from rbee.contracts.heartbeat import WorkerChange
from rbee.daemons.hive.workers.files import ProcessFile, WorkerFolder
from rbee.daemons.hive.workers.supervisor import Supervisor
from tests.support.ports import free_range
from tests.support.workers import llama_cpp


async def test_a_worker_that_two_end_at_once_is_told_as_removed_once(tmp_path: Path) -> None:
    folder = WorkerFolder.of(tmp_path, "w1")
    folder.path.mkdir()
    folder.save_config(
        WorkerConfig(
            worker_id="w1",
            hive_id="h1",
            fleet="test",
            model="m",
            model_path=str(tmp_path / "m.gguf"),
            provider=llama_cpp(),
            engine_python="python",
            worker_type="cpu",
            device="cpu",
            listen="127.0.0.1:9300",
            url="http://127.0.0.1:9300",
        )
    )
    folder.save_process(ProcessFile(status="failed", reason="It was so from the beginning.", port=9300))
    told: list[WorkerChange] = []
    supervisor = Supervisor(tmp_path, "127.0.0.1", free_range(), lambda: 2, told.append)
    await supervisor.start({})
    try:
        worker = supervisor.find("w1")
        assert worker is not None
        await asyncio.gather(*(supervisor.end(worker, lambda step: None) for _ in range(5)))
        assert [(c.action, c.worker_id) for c in told] == [("removed", "w1")]
        assert supervisor.find("w1") is None
        assert not folder.path.exists()
    finally:
        await supervisor.stop()
