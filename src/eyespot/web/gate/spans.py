"""Exports a span for each request, with spans for its images and steps below it, over OTLP."""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from eyespot._version import __version__
from eyespot.telemetry import Trace, event

_FLUSH_SECONDS = 2
_WARNING_SECONDS = 60
_LONGEST_PATH = 200  # characters: a client may send 64 KiB, and the queue holds 2048 spans
_ATTRIBUTES = {  # of the access line, and their names as attributes
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "code": "error.type",
    "request_id": "eyespot.request_id",
    "model": "eyespot.model",
    "images": "eyespot.images",
    "cache": "eyespot.cache",
}


class _Warnings(logging.Handler):
    """Logs each kind of warning at most once a minute: the exporter alone writes several lines for each batch."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        kind = str(record.msg)
        if time.monotonic() >= self._next.get(kind, 0):
            self._next[kind] = time.monotonic() + _WARNING_SECONDS
            event("opentelemetry_warned", logging.WARNING, reason=record.getMessage())


class Spans:
    """OpenTelemetry's SDK, set up by its own OTEL_* variables.

    A thread exports; its queue drops the oldest when it is full. Raises `ValueError` if a variable is invalid.
    """

    def __init__(self) -> None:
        logger = logging.getLogger("opentelemetry")
        logger.handlers, logger.propagate = [_Warnings()], False
        ours = Resource({"service.name": "eyespot", "service.version": __version__})
        resource = Resource.create(ours.merge(OTELResourceDetector().detect()).attributes)
        # It would wait half a minute at exit; `close` does not.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("eyespot", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, trace: Trace) -> Span:
        """The span of a request that has arrived; `trace.traceparent` names it from now on."""
        parent = self._propagator.extract({"traceparent": trace.traceparent or ""}, Context())
        began = time.time_ns() - round((time.monotonic() - trace.started) * 1e9)
        span = self._tracer.start_span("HTTP", parent, SpanKind.SERVER, start_time=began)
        ids = span.get_span_context()
        trace.traceparent = f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"
        return span

    def end(self, span: Span, trace: Trace, scope: Scope, facts: Mapping[str, Any]) -> None:
        """End the span of a request, with spans for its steps and images; `facts` are those of the access line."""
        if not isinstance(span, ReadableSpan):  # not sampled
            return
        span.update_name(f"{facts['method']} {facts['route']}")
        span.set_attributes({attribute: facts[fact] for fact, attribute in _ATTRIBUTES.items() if fact in facts})
        span.set_attributes({"url.path": scope["path"][:_LONGEST_PATH], "url.scheme": scope["scheme"]})
        if facts["status"] >= 500:
            span.set_status(StatusCode.ERROR)
        # One reading of the wall clock for all of it, or a child could end after its parent when the clock is set.
        epoch = (span.start_time or 0) - _nanoseconds(trace.started)
        self._add_steps(span, trace, epoch)
        for index, image in trace.images.items():
            began = image.laps[0][1] if image.laps else image.mark
            child = self._begin_below(span, "image", began, epoch)
            attributes = {"eyespot.index": index, "eyespot.cache": image.cache, "error.type": image.code}
            child.set_attributes({name: value for name, value in attributes.items() if value is not None})
            self._add_steps(child, image, epoch)
            child.end(epoch + _nanoseconds(image.mark))
        span.end(epoch + _nanoseconds(time.monotonic()))

    def _add_steps(self, span: Span, trace: Trace, epoch: int) -> None:
        for step, began, ended in trace.laps:
            self._begin_below(span, step, began, epoch).end(epoch + _nanoseconds(ended))

    def _begin_below(self, span: Span, name: str, began: float, epoch: int) -> Span:
        context = set_span_in_context(span, Context())
        return self._tracer.start_span(name, context, start_time=epoch + _nanoseconds(began))

    async def close(self) -> None:
        """Export the remaining spans, for at most two seconds: a hung collector must not hold the exit."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _FLUSH_SECONDS)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
