"""Sends finished spans to an OpenTelemetry collector, as OTLP over HTTP. Needs the extra `otel`.

Spans are built after their request has ended. Without a collector, requests build none.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gateway.domain import tracing

_PATH: Final = "/v1/traces"
_TIMEOUT_S: Final = 5.0
"""For one batch, with its retries. A shutdown allows this for the remaining spans and again for the batch in flight."""
_NANO: Final = 1_000_000_000


class SpanSender:
    """Sends spans in batches from its own thread. An unavailable collector loses spans, never a request."""

    def __init__(
        self,
        endpoint: str,
        service_name: str,
        version: str,
        clock_ns: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._url = endpoint.rstrip("/").removesuffix(_PATH) + _PATH
        self._resource = Resource({"service.name": service_name, "service.version": version})
        self._scope = InstrumentationScope("imagegate", version)
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        self._exporter = OTLPSpanExporter(self._url, timeout=_TIMEOUT_S)
        self._batches: BatchSpanProcessor | None = None

    async def start(self) -> None:
        self._batches = BatchSpanProcessor(self._exporter)

    async def close(self) -> None:
        """Sends the remaining spans, as far as the collector accepts them in time."""
        if self._batches:
            giving_up = asyncio.get_running_loop().call_later(_TIMEOUT_S, self._exporter.shutdown)
            await asyncio.to_thread(self._batches.shutdown)
            giving_up.cancel()

    def send(self, context: tracing.TraceContext, spans: Iterable[tracing.Span]) -> None:
        """Queues the spans of one request, unless its trace is not sampled."""
        if not self._batches or not context.is_sampled:
            return
        shift_ns = self._clock_ns() - round(self._monotonic() * _NANO)
        for span in spans:
            self._batches.on_end(self._readable(context, span, shift_ns))

    def _readable(self, context: tracing.TraceContext, span: tracing.Span, shift_ns: int) -> ReadableSpan:
        is_remote = span.kind is tracing.SpanKind.SERVER
        return ReadableSpan(
            span.name,
            _span_context(context, span.span_id),
            _span_context(context, span.parent_id, is_remote=is_remote) if span.parent_id else None,
            self._resource,
            {**span.attributes, **({"error.type": span.error_code} if span.error_code else {})},
            kind=SpanKind[span.kind.name],
            status=Status(StatusCode.ERROR, span.error_code) if span.error_code else Status(),
            start_time=round(span.started_s * _NANO) + shift_ns,
            end_time=round(span.ended_s * _NANO) + shift_ns,
            instrumentation_scope=self._scope,
        )


def _span_context(context: tracing.TraceContext, span_id: str, *, is_remote: bool = False) -> SpanContext:
    state = TraceState.from_header([context.state]) if context.state else None
    return SpanContext(int(context.trace_id, 16), int(span_id, 16), is_remote, TraceFlags(TraceFlags.SAMPLED), state)
