# SPDX-License-Identifier: GPL-3.0-or-later
"""Traces to an OpenTelemetry collector (OTLP over HTTP), where the extra `otel` is installed.

A request is one span with a child for its wait and one for its worker; they are made when it has ended, from the times
that were noted, so that a request that is under way costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import rbee
from rbee.core.errors import RbeeError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

Attributes = Mapping[str, "str | int | float | bool"]


class Traces:
    """`tell` is for one thread and never blocks; `close` sends what waits, for at most a few seconds."""

    def __init__(self, collector: str, fleet: str, exporter: SpanExporter | None = None) -> None:
        """`collector`: its base URL, `/v1/traces` is added. Raises RbeeError `no_traces` without the library."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            raise RbeeError(
                "`queen.traces` needs OpenTelemetry, which is not installed.",
                code="no_traces",
                mend="Install rbee with the extra `otel`, or leave `traces` out.",
            ) from None
        resource = Resource.create(
            {"service.name": "rbee-queen", "service.version": rbee.__version__, "rbee.fleet": fleet}
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter or OTLPSpanExporter(f"{collector.rstrip('/')}/v1/traces", timeout=5))
        )
        self._tracer = self._provider.get_tracer("rbee.queen", rbee.__version__)
        self._propagator = TraceContextTextMapPropagator()

    def tell(
        self,
        name: str,
        *,
        began: float,
        queued: float,
        sent: float | None,
        first_byte: float | None,
        ended: float,
        failed: str,
        attributes: Attributes,
        headers: Mapping[str, str],
    ) -> None:
        """One request that has ended. Times are epoch seconds; `queued` seconds it waited; `sent` None: no worker had
        it; `failed` is empty for one that went well. `headers` may carry the caller's `traceparent`."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        carrier = {key: headers[key] for key in ("traceparent", "tracestate") if key in headers}
        parent = self._propagator.extract(carrier) if carrier else None
        span = self._tracer.start_span(
            name, context=parent, kind=SpanKind.SERVER, attributes=dict(attributes), start_time=_ns(began)
        )
        inside = set_span_in_context(span)
        if queued > 0 and sent is not None:
            self._tracer.start_span("wait", inside, start_time=_ns(sent - queued)).end(_ns(sent))
        if sent is not None:
            worker = self._tracer.start_span("worker", inside, kind=SpanKind.CLIENT, start_time=_ns(sent))
            if first_byte is not None:
                worker.add_event("first byte", timestamp=_ns(first_byte))
            worker.end(_ns(ended))
        if failed:
            span.set_status(Status(StatusCode.ERROR, failed))
        span.end(_ns(ended))

    def close(self) -> None:
        """Blocks until what waits was sent, or the collector did not take it."""
        self._provider.shutdown()


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
