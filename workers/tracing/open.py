"""From settings to a tracer."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from workers.errors import InvalidSettings
from workers.tracing.spans import NO_TRACER, Tracer

PATH = "/v1/traces"
"""Of OTLP over HTTP (OpenTelemetry Protocol Specification, OTLP/HTTP Request)."""


@dataclass(frozen=True)
class TraceSettings:
    """Where traces go, and how many; picklable."""

    endpoint: str
    """Of a collector: http://HOST:PORT, or the whole URL that takes OTLP's traces."""
    share: float = 1.0
    """Of clips and questions that are traced, 0 to 1."""


def open_tracer(settings: TraceSettings | None) -> Tracer:
    """A tracer, to be closed; None traces nothing.

    Raises:
        InvalidSettings: the endpoint is none, or OpenTelemetry is not installed.
    """
    if settings is None:
        return NO_TRACER
    endpoint = _checked(settings.endpoint)
    try:
        from workers.tracing.otel import send_to
    except ImportError as error:
        raise InvalidSettings(
            "tracing.endpoint is set and OpenTelemetry is not installed: "
            "pip install 'aot-stream[tracing]', or leave it out"
        ) from error
    return send_to(endpoint, settings.share)


def _checked(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidSettings(
            f"tracing.endpoint {endpoint!r}: expected a collector, as http://127.0.0.1:4318"
        )
    return endpoint if parts.path.strip("/") else endpoint.rstrip("/") + PATH
