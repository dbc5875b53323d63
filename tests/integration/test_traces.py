# SPDX-License-Identifier: GPL-3.0-or-later
"""Traces as a collector gets them: a real one's protocol, on a server of this test."""

from __future__ import annotations

import asyncio
import gzip
import zlib

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from rbee.adapters.traces import Traces

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Collector:
    """Keeps what it is sent; `status` is what it answers."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.asked = 0
        self.spans: list[Span] = []
        self.resource: dict[str, str] = {}

    async def take(self, request: web.Request) -> web.Response:
        self.asked += 1
        body = await request.read()
        coding = request.headers.get("Content-Encoding")
        body = gzip.decompress(body) if coding == "gzip" else zlib.decompress(body) if coding == "deflate" else body
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = {a.key: a.value.string_value for a in of_resource.resource.attributes}
            for scope in of_resource.scope_spans:
                self.spans += scope.spans
        return web.Response(status=self.status, content_type="application/x-protobuf")

    async def start(self) -> str:
        app = web.Application()
        app.router.add_post("/v1/traces", self.take)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}"


def tell(traces: Traces, **changes: object) -> None:
    said: dict[str, object] = {
        "began": 1000.0,
        "queued": 0.5,
        "sent": 1000.6,
        "first_byte": 1000.75,
        "ended": 1002.0,
        "failed": "",
        "attributes": {"rbee.worker": "w1", "http.response.status_code": 200},
        "headers": {"traceparent": PARENT},
        **changes,
    }
    traces.tell("POST /v1/chat/completions", **said)  # type: ignore[arg-type]


async def test_a_request_is_a_span_with_its_wait_and_its_worker_under_the_callers() -> None:
    collector = Collector()
    traces = Traces(await collector.start(), "home")
    tell(traces)
    tell(traces, queued=0.0, sent=None, first_byte=None, failed="queue_full", headers={})
    await asyncio.to_thread(traces.close)
    await collector.runner.cleanup()
    assert collector.resource["service.name"] == "rbee-queen"
    assert collector.resource["rbee.fleet"] == "home"
    wait, worker, whole, refused = collector.spans
    assert [s.name for s in collector.spans] == ["wait", "worker", *["POST /v1/chat/completions"] * 2]
    assert whole.trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert whole.parent_span_id.hex() == "00f067aa0ba902b7"
    assert {s.parent_span_id for s in (wait, worker)} == {whole.span_id}
    times = [(s.start_time_unix_nano / 1e9, s.end_time_unix_nano / 1e9) for s in (whole, wait, worker)]
    assert [tuple(round(t, 3) for t in pair) for pair in times] == [(1000, 1002), (1000.1, 1000.6), (1000.6, 1002)]
    assert [(e.name, round(e.time_unix_nano / 1e9, 3)) for e in worker.events] == [("first byte", 1000.75)]
    assert {a.key for a in whole.attributes} == {"rbee.worker", "http.response.status_code"}
    assert refused.parent_span_id == b""
    assert (refused.status.code, refused.status.message) == (2, "queue_full")
    assert whole.status.code == 0


async def test_a_collector_that_is_away_keeps_nobody() -> None:
    traces = Traces("http://127.0.0.1:9", "home")
    for _ in range(3):
        tell(traces)
    await asyncio.wait_for(asyncio.to_thread(traces.close), 30)


async def test_a_parent_that_is_nonsense_is_left_out() -> None:
    collector = Collector()
    traces = Traces(await collector.start(), "home")
    tell(traces, headers={"traceparent": "00-nonsense"})
    await asyncio.to_thread(traces.close)
    await collector.runner.cleanup()
    assert collector.spans[-1].parent_span_id == b""
