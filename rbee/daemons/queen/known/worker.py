# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker as the queen knows it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from rbee.adapters.splice import Upstream, heads
from rbee.contracts.heartbeat import WorkerHeartbeat
from rbee.core.errors import InvalidRequest
from rbee.core.records import WorkerRecord
from rbee.core.routing import WARM

#: Why one is not reachable that only its hive has vouched for.
PROBED = "being probed"
NOBODY: Mapping[str, str] = {}


class Worker:
    """A worker as the queen knows it: its last heartbeat, what the queen itself sent it, whether it answers."""

    __slots__ = (
        "beat",
        "capabilities",
        "context_length",
        "foreign",
        "held",
        "in_flight",
        "labels",
        "last_seen",
        "last_used",
        "lines",
        "paths",
        "peak",
        "picked",
        "slots",
        "status",
        "trusted",
        "unreachable",
        "upstream",
        "warm",
        "worker_id",
    )

    def __init__(self, beat: WorkerHeartbeat, now: float, trusted: bool) -> None:
        #: Whether it may be shown the fleet's token: it has shown it itself, or a hive of the fleet told of it.
        self.trusted = trusted
        self.in_flight = 0
        #: The most that were in flight at once since its last heartbeat.
        self.peak = 0
        self.picked = 0
        #: When a request of this queen last began or ended there, on her clock; its discovery before the first.
        self.last_used = now
        #: Of its hive.
        self.labels: Mapping[str, str] = NOBODY
        #: Why no request goes to it; None when it answers.
        self.unreachable: str | None = None
        #: It is out of routing by someone's decision (quarantine, a stop): answering a probe does not bring it back.
        self.held = False
        self.worker_id = beat.worker_id
        self.upstream = upstream_of(beat.url)
        self.beat = beat
        self.update(beat, now)

    def update(self, beat: WorkerHeartbeat, now: float) -> None:
        if beat.url != self.beat.url:
            self.upstream = upstream_of(beat.url)
        self.beat = beat
        self.status: str = beat.status
        self.slots = beat.slots
        #: Requests that it has from others than this queen. What was hers when it said so may have ended since: that
        #: must not look as another's, and keep a slot closed until its next heartbeat.
        self.foreign = max(0, beat.slots_busy - max(self.peak, self.in_flight))
        self.peak = self.in_flight
        self.last_seen = now
        # What routing asks for every request.
        self.paths = beat.paths
        self.capabilities = beat.capabilities
        self.context_length = beat.context_length or 0
        self.warm = WARM if beat.requests_handled else 0.0
        #: What an answer says about who gave it.
        self.lines = heads.header_lines(
            ((b"X-Rbee-Worker", _header_value(beat.worker_id)), (b"X-Rbee-Hive", _header_value(beat.hive_id)))
        )

    @property
    def busy(self) -> int:
        return self.in_flight + self.foreign

    @property
    def free(self) -> int:
        """Slots that nobody has taken, as far as is known."""
        return self.slots - self.in_flight - self.foreign

    @property
    def coming(self) -> bool:
        """Whether it may be ready soon: it loads, or has only to answer its first probe."""
        return self.status == "starting" or self.unreachable == PROBED

    @property
    def reason(self) -> str | None:
        return self.beat.reason


def upstream_of(url: str) -> Upstream:
    """Host and port of a worker's URL. Raises InvalidRequest."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname and parts.port:
            return Upstream(parts.hostname, parts.port)
    except ValueError:
        pass
    raise InvalidRequest(f"{url!r} is not a worker's URL.", mend="Write it like http://192.168.1.20:9300.")


def _header_value(text: str) -> bytes:
    return text.encode("ascii", "replace").replace(b"\r", b"?").replace(b"\n", b"?").replace(b"\0", b"?")


def beat_of(record: WorkerRecord, hive_id: str) -> WorkerHeartbeat:
    """What the worker would say, as its hive tells it."""
    return WorkerHeartbeat(
        worker_id=record.worker_id,
        hive_id=hive_id,
        model=record.model,
        engine=record.engine,
        worker_type=record.worker_type,
        device=record.device,
        url=record.url,
        status=record.status,
        slots=record.slots,
        context_length=record.context_length,
        started_at=record.started_at,
        reason=record.reason,
    )
