"""OpenTelemetry traces: for each speech request a server span with its queue, its first audio and its stream inside.

They are made when the request has ended, of the times that it kept, so that a piece of audio costs nothing. The text is
in none. Needs the extra `otel`; where the spans go, and how many, is said by OpenTelemetry's own OTEL_* variables.
"""

import os
from collections.abc import Iterator
from typing import Final

from api import __version__
from api.trace import Trace
from engine import ConfigError

ROUTE: Final = "/v1/audio/speech"
"""One name for all its spellings: a path may hold a name that a user chose."""

PROTOCOL: Final = "http/protobuf"

FAILED: Final = ("error", "shutdown", "stalled", "timeout")
"""Outcomes that are this server's fault, or that its operator should see as one."""


class Tracing:
    """Exports over OTLP from a thread of its own. Raises ConfigError where it cannot."""

    def __init__(self) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise ConfigError("tracing", "needs OpenTelemetry: pip install 'lyre[otel]'") from None
        for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            if os.environ.get(variable, PROTOCOL) != PROTOCOL:
                raise ConfigError("tracing", f"{variable} must be {PROTOCOL}: nothing else is spoken here")
        usual = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "lyre"), "service.version": __version__}
        self._provider = TracerProvider(resource=Resource.create(usual), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("lyre", __version__)

    def record(self, trace: Trace) -> None:
        """The spans of a request that has ended: a watcher of it."""
        # Imported by now; at the top it would be asked for without the extra, too.
        from opentelemetry import trace as otel
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        began = trace.started
        span = self._tracer.start_span(
            f"POST {ROUTE}",
            TraceContextTextMapPropagator().extract(trace.parent),
            otel.SpanKind.SERVER,
            _attributes(trace),
            start_time=_unix(trace, began),
        )
        if trace.outcome in FAILED:
            span.set_status(otel.StatusCode.ERROR, trace.outcome)
        inside = otel.set_span_in_context(span)
        for name, start, end in _parts(trace):
            self._tracer.start_span(name, inside, start_time=_unix(trace, start)).end(_unix(trace, end))
        span.end(_unix(trace, began + (trace.duration or 0.0)))

    def close(self) -> None:
        """Sends what is left; may take seconds when nobody takes it."""
        self._provider.shutdown()


def _parts(trace: Trace) -> Iterator[tuple[str, float, float]]:
    """The stages that the request has begun, each until the next or the request's end."""
    if trace.stream is None:
        return
    timings = trace.stream.timings
    begun = [("queue", timings.taken), ("first_audio", timings.started), ("stream", timings.first_audio)]
    stages = [(name, start) for name, start in begun if start is not None]
    ends = [start for _, start in stages[1:]] + [trace.started + (trace.duration or 0.0)]
    for (name, start), end in zip(stages, ends, strict=True):
        yield name, start, end


def _attributes(trace: Trace) -> dict[str, str | int | float | bool]:
    stream = trace.stream
    known = {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "http.response.status_code": trace.status,
        "lyre.request_id": trace.request_id,
        "lyre.outcome": trace.outcome,
        "lyre.finish_reason": stream.finish_reason if stream else None,
        "lyre.voice": trace.voice,
        "lyre.format": trace.format,
        "lyre.sse": trace.sse,
        "lyre.chars": trace.chars,
        "lyre.ttfa_seconds": trace.ttfa,
        "lyre.audible_seconds": trace.first_audible,
        "lyre.audio_seconds": trace.audio_seconds,
        "lyre.underruns": stream.timings.underruns if stream else None,
    }
    return {name: value for name, value in known.items() if value is not None}


def _unix(trace: Trace, moment: float) -> int:
    """A moment of the monotonic clock as nanoseconds of Unix time."""
    return round((trace.born + moment - trace.started) * 1e9)
