# SPDX-License-Identifier: GPL-3.0-or-later
"""What is seen of every request once it has ended: numbers, a line of the access log, a trace."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from rbee.adapters.access_log import LineFile
from rbee.contracts.configs import QueenConfig
from rbee.daemons.queen.seen.ended import Ended
from rbee.daemons.queen.seen.metrics import Metrics

if TYPE_CHECKING:
    from rbee.adapters.traces import Traces

#: Ends that are nobody's fault.
_WELL = ("completed", "client_gone")


class Line(msgspec.Struct, omit_defaults=True):
    """A line of the access log: one request that has ended. Milliseconds; bytes of the bodies, the answer's with its
    head. `key` is the name of the client's key. Never a text of the request or the answer."""

    time: str
    request_id: str
    path: str
    status: int
    #: `completed`, `client_gone`, `upstream_died`, `timed_out`, `refused`.
    end: str
    ms: float
    key: str = ""
    priority: str = "interactive"
    asked_for: str = ""
    model: str = ""
    worker: str = ""
    hive: str = ""
    stream: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    queue_ms: float = 0.0
    overhead_ms: float = 0.0
    first_byte_ms: float | None = None
    retries: int = 0
    code: str = ""


def _ms(seconds: float) -> float:
    """Milliseconds to the microsecond; `round` takes four times as long."""
    return int(seconds * 1e6 + 0.5) / 1e3


class _Stamp:
    """RFC 3339 of an epoch time, in UTC; the second's text is made once."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def of(self, moment: float) -> str:
        second = int(moment)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{int((moment - second) * 1000):03d}Z"


class Seen:
    """One for the queen. `file` is the access log's; `configure` says whether it is written. `traces` None: none are
    sent."""

    def __init__(self, metrics: Metrics, file: LineFile, config: QueenConfig, traces: Traces | None = None) -> None:
        self.metrics = metrics
        self.file = file
        self._traces = traces
        self._encode = msgspec.json.Encoder().encode
        self._stamp = _Stamp()
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        self._log = self.file if config.access_log else None

    def start(self) -> None:
        self.file.start()

    async def stop(self) -> None:
        """What waits is written, and sent (for a few seconds at most)."""
        await asyncio.to_thread(self.file.close)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)

    def done(self, ended: Ended) -> None:
        """A request is over, once. Costs every request: no awaits."""
        asked, worker = ended.asked, ended.worker
        if worker is not None:
            waited = asked.waited if asked is not None else 0.0
            times = self.metrics.done(
                worker.beat.model, worker.worker_id, ended.status, ended.end, ended.seconds, ended.first_byte, waited
            )
            times.overhead.add(ended.overhead)
        else:
            self.metrics.refused[ended.code or ended.end, ended.status] += 1
        if self._log is not None:
            self._log.add(self._encode(self._line(ended)))
        if self._traces is not None:
            self._trace(self._traces, ended)

    def _line(self, ended: Ended) -> Line:
        asked, worker, first = ended.asked, ended.worker, ended.first_byte
        line = Line(
            self._stamp.of(time.time()),
            ended.request_id,
            ended.path,
            ended.status,
            ended.end,
            _ms(ended.seconds),
            bytes_out=ended.sent,
            overhead_ms=_ms(ended.overhead),
            first_byte_ms=None if first is None else _ms(first),
            code=ended.code,
        )
        if asked is not None:
            client = asked.client
            line.key = client.name
            line.priority = client.priority
            line.asked_for = asked.name
            line.stream = asked.peek.stream
            line.bytes_in = asked.size
            if asked.waited:
                line.queue_ms = _ms(asked.waited)
            line.retries = len(asked.tried)
        if worker is not None:
            beat = worker.beat
            line.model = beat.model
            line.worker = beat.worker_id
            line.hive = beat.hive_id
        return line

    @staticmethod
    def _trace(traces: Traces, ended: Ended) -> None:
        asked, worker, now = ended.asked, ended.worker, time.time()
        waited = asked.waited if asked is not None else 0.0
        began = now - ended.seconds
        sent = began + waited + ended.overhead if worker is not None else None
        about: dict[str, str | int | float | bool] = {
            "http.request.method": "POST",
            "url.path": ended.path,
            "http.response.status_code": ended.status,
            "rbee.request_id": ended.request_id,
            "rbee.end": ended.end,
        }
        if asked is not None:
            about |= {
                "gen_ai.request.model": asked.name,
                "rbee.key": asked.client.name,
                "rbee.stream": asked.peek.stream,
                "rbee.retries": len(asked.tried),
            }
        if worker is not None:
            about |= {
                "gen_ai.response.model": worker.beat.model,
                "rbee.worker": worker.worker_id,
                "rbee.hive": worker.beat.hive_id,
            }
        traces.tell(
            f"POST {ended.path}",
            began=began,
            queued=waited,
            sent=sent,
            first_byte=None if ended.first_byte is None or sent is None else sent + ended.first_byte,
            ended=now,
            failed=ended.code or ("" if ended.status < 400 and ended.end in _WELL else ended.end),
            attributes=about,
            headers=asked.headers if asked is not None else {},
        )
