# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon with the hive's own jobs, store and streams, whose one operation talks much.

`python -m tests.bench.hive.talker DB EVENTS BYTES`: prints its URL; the job waits for a SIGUSR1 before it talks.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from rbee.adapters.store import SqliteJobStore
from rbee.daemons.access import Listener
from rbee.daemons.app import Server, build
from rbee.daemons.job_routes import JobRoutes
from rbee.daemons.jobs import JobContext, JobRunner


async def run(db: Path, events: int, size: int) -> None:
    go, end = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, go.set)
    loop.add_signal_handler(signal.SIGTERM, end.set)

    async def talk(ctx: JobContext, request: object) -> dict[str, int]:
        await go.wait()
        text = "x" * size
        for i in range(events):
            ctx.narrate("step", text, step=i)
            if i % 10 == 9:
                await asyncio.sleep(0.005)
        return {"events": events}

    runner = JobRunner(SqliteJobStore(db), {"HiveCheck": talk}, "talker")
    await runner.start()
    server = Server(build(JobRoutes(runner).routes()), [Listener("127.0.0.1", 0)])
    await server.start()
    print(server.urls[0], flush=True)
    await end.wait()
    await runner.stop()
    await server.stop(drain=0.1)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
