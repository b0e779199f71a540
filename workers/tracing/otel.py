"""Traces by OpenTelemetry's SDK, sent as OTLP over HTTP in a thread of their own.

The only file that imports it; it is an extra of the distribution.
"""

import time
from types import TracebackType

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from workers.tracing.spans import Fact, Span

SEND_S = 3.0
"""For one batch to a collector, tries included; it is lost then, and that is logged."""
EVERY_S = 1.0
"""How often what was traced is sent."""


class OtelTracer:
    """Spans by OpenTelemetry's SDK, through a provider that belongs to this tracer alone."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("aot-stream")

    def span(self, name: str, *, ago_s: float = 0.0, **facts: Fact) -> Span:
        """As `Tracer.span`."""
        began_ns = time.time_ns() - round(ago_s * 1e9)
        made = self._tracer.start_span(name, Context(), start_time=began_ns, attributes=facts)
        return _OtelSpan(self, made, None)

    def close(self) -> None:
        """As `Tracer.close`."""
        self._provider.shutdown()

    def begin(self, parent: trace.Span, name: str, began_ns: int) -> trace.Span:
        """A span of the SDK inside another."""
        inside = trace.set_span_in_context(parent, Context())
        return self._tracer.start_span(name, inside, start_time=began_ns)


class _OtelSpan:
    def __init__(self, tracer: OtelTracer, span: trace.Span, end_ns: int | None) -> None:
        self._tracer, self._span, self._end_ns = tracer, span, end_ns

    def part(self, name: str, *, ago_s: float = 0.0, lasted_s: float | None = None) -> Span:
        began_ns = time.time_ns() - round(ago_s * 1e9)
        end_ns = None if lasted_s is None else began_ns + round(lasted_s * 1e9)
        return _OtelSpan(self._tracer, self._tracer.begin(self._span, name, began_ns), end_ns)

    def tell(self, **facts: Fact) -> None:
        self._span.set_attributes(facts)

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):  # a reader that leaves, a stop: not a fault
            code = str(getattr(error, "code", type(error).__name__))
            self._span.set_status(
                trace.Status(trace.StatusCode.ERROR, code)
            )  # never its text: it may quote
        self._span.end(self._end_ns)


def send_to(endpoint: str, share: float) -> OtelTracer:
    """A tracer whose spans go to the URL `endpoint`; a share of all traces, each whole or not."""
    provider = TracerProvider(
        TraceIdRatioBased(share), Resource({"service.name": "aot-stream"}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint, timeout=SEND_S)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, schedule_delay_millis=round(EVERY_S * 1000))
    )
    return OtelTracer(provider)
