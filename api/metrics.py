"""What Prometheus reads. Names, labels and buckets are an interface: docs/metrics.md lists them.

What the engine counts is read from it at the scrape; requests are counted when they have ended, where their log line
is written, so that the two never differ. Labels come from fixed lists alone.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from api import __version__
from api.trace import OUTCOMES, Trace
from engine import Engine, EngineUnavailable
from engine.sequence import FinishReason
from engine.tally import Distribution

FIRST_AUDIO_BUCKETS: Final = (
    *(0.02, 0.035, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75),
    *(1, 2, 5),
)
QUEUE_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
DURATION_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
FACTOR_BUCKETS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.25, 1.5, 2, 5)

STATES: Final = ("ready", "loading", "down")
RESTART_CAUSES: Final = ("death", "hang")

# A series more for each, which says when the server was started; process_start_time_seconds does.
disable_created_metrics()


class Metrics:
    """The figures of one server, in a registry of their own."""

    def __init__(self, engine: Engine, open_answers: Callable[[], int] = lambda: 0) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_EngineFigures(engine, open_answers))
        self._requests = Counter(
            "tts_requests_total", "Speech requests that have ended, by how.", ["outcome"], registry=self.registry
        )
        self._finished = Counter(
            "tts_finished_total", "Generations that have ended, by why.", ["reason"], registry=self.registry
        )
        for outcome in OUTCOMES:
            self._requests.labels(outcome)
        for reason in FinishReason:
            self._finished.labels(reason.value)
        self._audio = Counter(
            "tts_audio_seconds_total",
            "Seconds of speech generated, before a change of speed.",
            ["voice", "format"],
            registry=self.registry,
        )
        self._first_audio = self._histogram(
            "tts_time_to_first_audio_seconds",
            "From the request's head to its first audio, which is then sent at once.",
            FIRST_AUDIO_BUCKETS,
        )
        self._first_audible = self._histogram(
            "tts_time_to_first_audible_seconds",
            "The same to the moment at which a listener hears the first sound that is louder than silence.",
            FIRST_AUDIO_BUCKETS,
        )
        self._queue = self._histogram(
            "tts_queue_time_seconds", "From the engine's taking a request to the request's slot.", QUEUE_BUCKETS
        )
        self._duration = self._histogram(
            "tts_request_duration_seconds", "From a request's head to the end of its answer.", DURATION_BUCKETS
        )
        self._factor = self._histogram(
            "tts_real_time_factor",
            "Seconds of work for a second of speech, from the slot to the last audio, of finished requests.",
            FACTOR_BUCKETS,
        )

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, about, buckets=buckets, registry=self.registry)

    def count(self, trace: Trace) -> None:
        """A request to the speech route has ended."""
        self._requests.labels(trace.outcome).inc()
        for histogram, seconds in (
            (self._first_audio, trace.ttfa),
            (self._first_audible, trace.first_audible),
            (self._queue, trace.queue_seconds),
            (self._duration, trace.duration),
        ):
            if seconds is not None:
                histogram.observe(seconds)
        if trace.stream and trace.stream.finish_reason is not None:
            self._finished.labels(trace.stream.finish_reason).inc()
        if trace.outcome == "ok" and trace.real_time_factor is not None:
            self._factor.observe(trace.real_time_factor)
        if trace.audio_seconds and trace.voice is not None and trace.format is not None:
            self._audio.labels(trace.voice, trace.format).inc(trace.audio_seconds)


class _EngineFigures(Collector):
    """Reads the engine's own figures when somebody looks."""

    def __init__(self, engine: Engine, open_answers: Callable[[], int]) -> None:
        self._engine, self._open_answers = engine, open_answers

    def collect(self) -> Iterator[Metric]:
        engine, tally = self._engine, self._engine.tally
        yield _gauge("tts_ready", "Whether a speech request would be taken now.", engine.ready)
        yield _gauge("tts_requests_running", "Requests that hold a slot.", engine.running)
        yield _gauge("tts_requests_waiting", "Requests that wait for a slot.", engine.waiting)
        yield _gauge("tts_slots", "Requests that can be spoken at once.", engine.slots)
        yield _gauge("tts_open_answers", "Answers that their clients have not taken whole.", self._open_answers())
        engines = GaugeMetricFamily("tts_engines", "Engine processes, by state.", labels=["state"])
        processes = engine.processes
        for state in STATES:
            engines.add_metric([state], processes[state])
        yield engines
        yield _counter("tts_engine_steps_total", "Frames that batches of streams have gone through.", tally.steps)
        yield _counter("tts_engine_tokens_total", "Audio tokens of these frames.", tally.tokens)
        yield _counter("tts_underruns_total", "Pieces of audio later than their listener needed them.", tally.underruns)
        restarts = CounterMetricFamily(
            "tts_engine_restarts_total", "Engine processes started again, by why.", labels=["cause"]
        )
        for cause in RESTART_CAUSES:
            restarts.add_metric([cause], tally.restarts[cause])
        yield restarts
        yield _histogram(
            "tts_engine_step_seconds", "What a frame took the language model, on the device.", tally.step_seconds
        )
        yield _histogram("tts_engine_batch_size", "Streams in a frame.", tally.batch_sizes)
        yield _histogram(
            "tts_chunk_interval_seconds", "Between two pieces of a stream's audio, from the engine.", tally.intervals
        )
        yield from self._build()

    def _build(self) -> Iterator[Metric]:
        """Once it is known what was loaded."""
        with suppress(EngineUnavailable):
            info = self._engine.info
            loaded = {name: getattr(info, name) for name in ("model", "device", "dtype", "kernel")}
            yield InfoMetricFamily("tts_build", "What runs.", value={"version": __version__, **loaded})


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=float(value))


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(name, about, value=value)


def _histogram(name: str, about: str, distribution: Distribution) -> Metric:
    counts = list(accumulate(distribution.counts))
    bounds = [floatToGoString(bound) for bound in (*distribution.bounds, float("inf"))]
    return HistogramMetricFamily(
        name, about, buckets=list(zip(bounds, counts, strict=True)), sum_value=distribution.sum
    )
