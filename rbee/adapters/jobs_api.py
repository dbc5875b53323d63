# SPDX-License-Identifier: GPL-3.0-or-later
"""Running jobs on a daemon: submit, read the events (resumed when the stream drops), take the result."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from rbee.adapters.http import LOST, Daemon
from rbee.adapters.secrets import Token
from rbee.adapters.sse import Parser
from rbee.contracts import codec, defaults
from rbee.contracts.jobs import ENDED, Job, JobAccepted, JobPage
from rbee.contracts.operations import OPERATIONS, wire
from rbee.core.errors import RbeeError, Unreachable
from rbee.fleet.ports import OnEvent, Shell

#: A stream that is silent for longer than three keepalives is dead.
STREAM_TIMEOUT = 3 * defaults.SSE_KEEPALIVE
#: How long a daemon may be gone, while a job runs on it, before we give up.
GONE = 30.0


class JobsApi:
    """Base of the hive's and the queen's API. `token` is asked for at each request, as it may just have been made."""

    def __init__(self, shell: Shell, url: str, token: Callable[[], str | None], name: str) -> None:
        self._shell, self._url, self._token, self._name = shell, url, token, name
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._cancels = 0

    def _daemon(self) -> Daemon:
        text = self._token()
        return Daemon(shell=self._shell, url=self._url, token=Token(text) if text else None, name=self._name)

    def run(self, request: Any, on_event: OnEvent | None = None) -> Any:
        daemon, cancels = self._daemon(), self._cancels
        told = daemon.ask("POST", "/v1/jobs", codec.encode(wire(request)))
        job_id = codec.decode(JobAccepted, told).job_id
        with self._lock:
            self._running.add(job_id)
            missed = self._cancels != cancels
        if missed:  # it was cancelled before anyone knew its name
            self._cancel(job_id)
        try:
            job = self._follow(daemon, job_id, on_event or (lambda event: None))
        except BaseException as e:
            if not isinstance(e, RbeeError):
                self._cancel(job_id)
            raise
        finally:
            with self._lock:
                self._running.discard(job_id)
        return result_of(job)

    def cancel(self) -> None:
        with self._lock:
            self._cancels += 1
            running = list(self._running)
        for job_id in running:
            self._cancel(job_id)

    # One thing at a time, for `rbee jobs`.

    def submit(self, request: Any) -> str:
        """The id of the job that it has become. Raises RbeeError."""
        told = self._daemon().ask("POST", "/v1/jobs", codec.encode(wire(request)))
        return codec.decode(JobAccepted, told).job_id

    def job(self, job_id: str) -> Job:
        """Raises NotFound."""
        return codec.decode(Job, self._daemon().ask("GET", f"/v1/jobs/{quote(job_id, safe='')}", timeout=60.0))

    def page(self, filters: Mapping[str, str | None], limit: int, cursor: str | None = None) -> JobPage:
        """Jobs, newest first. Raises RbeeError."""
        said = {**filters, "limit": str(limit), "cursor": cursor}
        query = urlencode({name: value for name, value in said.items() if value is not None})
        return codec.decode(JobPage, self._daemon().ask("GET", f"/v1/jobs?{query}", timeout=60.0))

    def cancel_job(self, job_id: str) -> Job:
        """As it is then: one that is slow to end may still run. Raises NotFound, RbeeError `job_ended`."""
        return codec.decode(Job, self._daemon().ask("DELETE", f"/v1/jobs/{quote(job_id, safe='')}"))

    def follow_job(self, job_id: str, on_event: OnEvent) -> Job:
        """Tells every event once, in order, until the job has ended; as it ended. Raises NotFound, Unreachable."""
        self.job(job_id)
        return self._follow(self._daemon(), job_id, on_event)

    def events_of(self, job_id: str, on_event: OnEvent) -> None:
        """Tells the events so far. Raises NotFound, Unreachable."""
        answer = self._daemon().ask(
            "GET", f"/v1/jobs/{quote(job_id, safe='')}/stream?large=false&follow=false", timeout=STREAM_TIMEOUT
        )
        for event in Parser().feed(answer):
            if event.data != "[DONE]":
                _tell(event.data, on_event)

    def _cancel(self, job_id: str) -> None:
        """Best effort: a daemon that is gone has nothing left to cancel."""
        try:
            self._daemon().ask("DELETE", f"/v1/jobs/{quote(job_id)}", timeout=15.0)
        except RbeeError:
            return

    def _follow(self, daemon: Daemon, job_id: str, on_event: OnEvent) -> Job:
        """Tell every event once, in order, until the job has ended. Raises Unreachable after `GONE` seconds, or as soon
        as the daemon is gone and nobody wants the job any more."""
        last_id, wait, end = "", defaults.BACKOFF_FIRST, time.monotonic() + GONE
        cancels = self._cancels
        while True:
            before = last_id
            try:
                last_id = self._stream(daemon, job_id, last_id, on_event)
                job = codec.decode(Job, daemon.ask("GET", f"/v1/jobs/{quote(job_id)}"))
                if job.state in ENDED:
                    return job
            except _Dropped as e:
                last_id = e.last_id
            except Unreachable:
                if time.monotonic() > end or self._cancels != cancels:
                    raise
            if last_id != before:
                wait, end = defaults.BACKOFF_FIRST, time.monotonic() + GONE
            elif time.monotonic() > end:
                raise Unreachable(f"{self._name} at {self._url} drops the events of {job_id} again and again.")
            time.sleep(wait)
            wait = min(wait * 2, 2.0)

    @staticmethod
    def _stream(daemon: Daemon, job_id: str, last_id: str, on_event: OnEvent) -> str:
        """Read until `[DONE]`; the id of the last event. Raises _Dropped when the stream ends before."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        connection, answer = daemon.open(
            "GET", f"/v1/jobs/{quote(job_id)}/stream?large=false", timeout=STREAM_TIMEOUT, headers=headers
        )
        parser = Parser()
        parser.last_id = last_id
        try:
            while chunk := answer.read1(65536):
                for event in parser.feed(chunk):
                    if event.data == "[DONE]":
                        return parser.last_id
                    _tell(event.data, on_event)
        except LOST:
            pass
        finally:
            connection.close()
        raise _Dropped(parser.last_id)


class _Dropped(Exception):
    def __init__(self, last_id: str) -> None:
        super().__init__(last_id)
        self.last_id = last_id


def _tell(data: str, on_event: OnEvent) -> None:
    """A frame that is no object, or tells only how the job ended, is not for the listener: `run` says that."""
    try:
        told = json.loads(data)
    except ValueError:
        return
    if isinstance(told, dict) and "event" in told and told["event"] not in ("result", "cancelled"):
        on_event(told)


def result_of(job: Job) -> Any:
    """The response of an ended job. Raises RbeeError when there is none: it failed, was cancelled, or its result is
    kept no more."""
    if job.state == "cancelled":
        raise RbeeError(f"{job.operation} was cancelled.", code="cancelled")
    if job.state == "failed":
        error = job.error
        raise RbeeError(error.error if error else f"{job.operation} failed.", code=error.code if error else "failed")
    if job.result is None and job.result_bytes:
        raise RbeeError(f"The result of this {job.operation} is kept no more.", code="result_gone", mend="Ask again.")
    return codec.convert(OPERATIONS[job.operation].response, job.result)
