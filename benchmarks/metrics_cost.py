"""What the figures cost the server's process: CPU time for each piece of audio, each request and each scrape.

    python -m benchmarks.metrics_cost

A piece is what SpeechStream.feed does with it, with its times and without; the difference is the price. At 256 streams
there are 3,000 pieces a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from prometheus_client.exposition import generate_latest

from api.metrics import Metrics
from api.trace import Trace
from benchmarks.report import print_document, print_table
from engine import Engine, EngineConfig, SpeechStream
from engine.tally import Tally
from engine.timings import Timings

LOUD = b"\x00\x40" * 2048
QUIET = bytes(4096)


class Untimed(Timings):
    """Keeps nothing: what a piece would cost without its times."""

    def audio(self, pcm: bytes) -> None:
        pass


def microseconds(work: Callable[[], Any], times: int, rounds: int = 7) -> float:
    """CPU time of one call: the best of some rounds, for what else runs only adds to it."""
    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        for _ in range(times):
            work()
        best = min(best, time.process_time() - begun)
    return round(1e6 * best / times, 3)


def piece(tally: Tally, pcm: bytes, timed: bool) -> Callable[[], None]:
    """Feeds one more piece to a stream that nobody reads."""
    stream = SpeechStream(1, lambda request_id: None, tally)
    if not timed:
        stream.timings = Untimed(tally)
    stream.timings.speed = 1e-9  # it never runs out
    pieces = stream._pieces

    def feed() -> None:
        stream.feed(pcm, 7)
        pieces.clear()

    return feed


def ended(metrics: Metrics, tally: Tally) -> Callable[[], None]:
    """Counts one request that went well."""
    stream = SpeechStream(1, lambda request_id: None, tally)
    stream.begin()
    stream.feed(LOUD, 7)
    stream.finish("stop", 9, 7)
    trace = Trace("req_1", voice="tara", format="pcm", chars=9, sse=False, stream=stream, ttfa=0.1)
    trace.status, trace.outcome, trace.duration = 200, "ok", 1.0
    return lambda: metrics.count(trace)


def main() -> None:
    engine = Engine(EngineConfig())
    metrics, tally = Metrics(engine), engine.tally
    loud, bare = (microseconds(piece(tally, LOUD, timed), 20_000) for timed in (True, False))
    quiet = microseconds(piece(tally, QUIET, timed=True), 20_000)
    rows = [
        {"what": "a piece, with its times", "cpu_us": loud},
        {"what": "a piece, without", "cpu_us": bare},
        {"what": "a piece of silence before the first sound", "cpu_us": quiet},
        {"what": "a frame of the batch", "cpu_us": microseconds(lambda: tally.step(256, 0.04), 20_000)},
        {"what": "a request's end", "cpu_us": microseconds(ended(metrics, tally), 2_000)},
        {"what": "a scrape", "cpu_us": microseconds(lambda: generate_latest(metrics.registry), 20)},
    ]
    print_table(rows)
    print_document(rows)


if __name__ == "__main__":
    main()
