# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen herself, the engine her one worker: `python -m tests.bench.gateway.queen_front PORT ENGINE_PORT [all]`.

`all`: with what she leaves out where nobody asks for it. The load shows a key that she knows, which has limits, and two
policies have their say about every request. (Deadlines, metrics, the access log and explanations are never left out.)
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from rbee.adapters.paths import Paths
from rbee.contracts.configs import QueenConfig
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.core.spec import PolicySpec
from rbee.core.spec_queen import KeySpec
from rbee.daemons import app
from rbee.daemons.queen.app import QueenDaemon

from .load import KEY


def everything(root: Path) -> dict[str, Any]:
    """Settings with keys, limits and policies."""
    key = root / "key"
    key.touch(mode=0o600)
    key.write_text(KEY)
    known = KeySpec(name="bench", key_file=str(key), requests_per_minute=1_000_000_000, concurrent=100_000)
    return {
        "keys": {"bench": known},
        "policies": {
            "room": PolicySpec(filter="worker.busy < worker.slots", score="-worker.load"),
            "short": PolicySpec(reject="request.max_tokens > 100000", reason="Ask for less."),
        },
    }


async def serve(stop: asyncio.Event) -> None:
    """Serves until told to stop; the worker heartbeats never again, so it is taken as fresh for a day."""
    port, engine_port = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = Paths(config=root / "c", cache=root / "k", data=root / "d", state=root / "s")
        aliases: dict[str, tuple[str, ...]] = {"m": ("engine",)}  # the load asks for m
        more = everything(root) if sys.argv[3:] == ["all"] else {}
        config = QueenConfig(fleet="bench", listen=f"127.0.0.1:{port}", aliases=aliases, **more)
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
