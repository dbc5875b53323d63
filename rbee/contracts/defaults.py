# SPDX-License-Identifier: GPL-3.0-or-later
"""Every port, interval, deadline and bound of rbee, once. Durations in seconds, sizes in bytes."""

from __future__ import annotations

from typing import Final

QUEEN_PORT: Final = 7833
HIVE_PORT: Final = 7835
WORKER_PORTS: Final = (9300, 9999)
QUEEN_LISTEN: Final = f"127.0.0.1:{QUEEN_PORT}"
HIVE_LISTEN: Final = f"127.0.0.1:{HIVE_PORT}"

HEARTBEAT_INTERVAL: Final = 30.0
STALE_AFTER: Final = 90.0
HEARTBEAT_TIMEOUT: Final = 5.0
#: First and longest wait between tries of something that is down.
BACKOFF_FIRST: Final = 0.2
BACKOFF_MAX: Final = 10.0

CONNECT_TIMEOUT: Final = 5.0
#: As long as OpenAI's clients wait. An answer that is no stream begins when it is whole: minutes, on a CPU.
FIRST_BYTE_TIMEOUT: Final = 600.0
#: What a worker that is taken for hung has to give one token, before it is started anew.
SUSPECT_PATIENCE: Final = 10.0
WORKER_START_TIMEOUT: Final = 300.0
WORKER_DRAIN: Final = 30.0
DAEMON_DRAIN: Final = 20.0
DAEMON_START_TIMEOUT: Final = 30.0
ENGINE_STOP_TIMEOUT: Final = 5.0

MAX_BODY: Final = 64 * 2**20
MAX_JOB_EVENTS: Final = 10_000
#: Of one job's events: in memory while it runs, and in the file.
MAX_JOB_BYTES: Final = 4 * 2**20
#: Seconds after which a job that follows something, and that nobody reads any more, is cancelled.
JOB_UNHEARD: Final = 60.0
JOBS_KEPT: Final = 1_000
#: A queen on a shared store who was silent for so long is taken for dead: others take up her jobs.
OWNER_TTL: Final = 15.0
#: Seconds after which a job that could not be written down is refused.
JOB_WRITTEN_WITHIN: Final = 5.0
#: Of all ended jobs with their events and smaller results, in the file.
JOBS_BYTES: Final = 256 * 2**20
#: Of all large results, which are files of their own.
RESULTS_BYTES: Final = 128 * 2**20
#: Jobs of one lane (`OperationType.lane`) that run at once; more of them wait, `queued`.
LANES: Final = {"spawn": 16, "fetch": 64, "verify": 2, "load": 2, "logs": 64}
LANE: Final = 64
#: Downloads that fetch at once, whatever number of jobs waits for them.
DOWNLOADS: Final = 4
#: A client that takes none of the bytes sent to it for so long is gone: what it held is free again.
CLIENT_GONE: Final = 120.0
SSE_KEEPALIVE: Final = 15.0
LOG_BYTES: Final = 10 * 2**20

SSH_CONNECT_TIMEOUT: Final = 10.0
PROBE_TIMEOUT: Final = 30.0
PARALLELISM: Final = 10

#: The oldest Python that a hive machine may have, and the controller's.
HIVE_PYTHON: Final = (3, 10)
CONTROLLER_PYTHON: Final = (3, 11)
