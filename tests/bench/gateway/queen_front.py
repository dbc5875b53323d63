# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen herself, the engine her one worker: `python -m tests.bench.gateway.queen_front PORT ENGINE_PORT`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from rbee.adapters.paths import Paths
from rbee.contracts.configs import QueenConfig
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.daemons import app
from rbee.daemons.queen.app import QueenDaemon


async def serve(stop: asyncio.Event) -> None:
    """Serves until told to stop; the worker heartbeats never again, so it is taken as fresh for a day."""
    port, engine_port = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = Paths(config=root / "c", cache=root / "k", data=root / "d", state=root / "s")
        aliases: dict[str, tuple[str, ...]] = {"m": ("engine",)}  # the load asks for m
        config = QueenConfig(fleet="bench", listen=f"127.0.0.1:{port}", aliases=aliases)
        queen = QueenDaemon(config, paths, None, stale_after=86_400)
        await queen.start()
        queen.registry.heartbeat(
            WorkerHeartbeat(
                worker_id="engine",
                hive_id="bench",
                model="engine",
                engine="mock",
                worker_type="cpu",
                device="cpu",
                url=f"http://127.0.0.1:{engine_port}",
                status="ready",
                slots=100_000,  # queueing is not what is measured
            )
        )
        await stop.wait()
        await queen.stop(drain=0)


if __name__ == "__main__":
    app.run(serve)
