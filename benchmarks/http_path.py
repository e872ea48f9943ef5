"""What the server's own process costs, without models: processor time for each frame of each stream.

    python -m benchmarks.http_path --streams 64 256 --formats pcm wav mp3 sse

`lyre serve` runs with a stand-in engine that gives every stream 85 ms of audio each 85 ms (benchmarks/stand_in.py);
clients in other processes read. `cpu_us` is user and system time of the server's process for a piece, `system_us` the
kernel's part of it, `core` the share of one core, `streams_a_core` how many streams in real time fill one. A `pace`
under 1 is a server that does not keep up; `answer` is how long a trivial request takes meanwhile. A table for people;
the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter
from typing import Any

import httpx

from benchmarks.load import Share, ready, take
from benchmarks.report import percentile, print_document, print_table
from benchmarks.serve import long_enough
from benchmarks.server import OwnServer
from benchmarks.stand_in import FRAME_SECONDS

PROBE_SECONDS = 0.05
FORMATS = ("pcm", "wav", "flac", "opus", "mp3", "aac", "sse")


def body(name: str) -> dict[str, Any]:
    """What is asked for: sse is pcm in events."""
    return {"response_format": "pcm", "stream_format": "sse"} if name == "sse" else {"response_format": name}


def measure(
    server: OwnServer, crowd: ProcessPoolExecutor, name: str, streams: int, ramp: float, duration: float
) -> dict[str, Any]:
    """One row: what happens between the last stream's beginning and `duration` seconds later."""
    seconds, begin = ramp + duration + 1.0, perf_counter() + 0.2
    share = Share(
        url=server.url, key=None, texts=(long_enough(seconds),), voices=("alloy",), index=0, of=1, begin_at=begin,
        concurrency=streams, requests=streams, duration=duration, ramp=ramp, seconds=seconds, more=body(name),
    )  # fmt: skip
    future = crowd.submit(take, share)
    time.sleep(max(0.0, begin + ramp - perf_counter()))
    before, began = server.cpu_seconds(), perf_counter()
    answers = answer_times(server.url, duration)
    user, system = (b - a for a, b in zip(before, server.cpu_seconds(), strict=True))
    cpu, taken = user + system, perf_counter() - began
    outcome = future.result()
    if outcome.errors or len(outcome.heard) != streams:
        raise SystemExit(f"{len(outcome.heard)} of {streams} streams; {outcome.errors}")
    # All are whole by now, so that a piece's share of the bytes is known in every format.
    total = sum(one.received for one in outcome.heard)
    pieces = outcome.received / total * streams * round(seconds / FRAME_SECONDS)
    return {
        "format": name,
        "streams": streams,
        "pieces_per_s": round(pieces / taken),
        "pace": round(pieces / taken * FRAME_SECONDS / streams, 2),
        "cpu_us": round(1e6 * cpu / pieces, 1),
        "system_us": round(1e6 * system / pieces, 1),
        "core": round(cpu / taken, 3),
        "streams_a_core": round(pieces * FRAME_SECONDS / cpu),
        "answer_p50_ms": round(1000 * (percentile(answers, 0.5) or 0.0), 1),
        "answer_p99_ms": round(1000 * (percentile(answers, 0.99) or 0.0), 1),
    }


def answer_times(url: str, duration: float) -> list[float]:
    """Seconds that a request without any work takes meanwhile: what a new listener waits for the event loop."""
    taken, end = [], perf_counter() + duration
    with httpx.Client(base_url=url, timeout=60) as client:
        while perf_counter() < end:
            began = perf_counter()
            client.get("/health/live").raise_for_status()
            taken.append(perf_counter() - began)
            time.sleep(PROBE_SECONDS)
    return taken


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["pcm", "wav", "mp3", "sse"])
    parser.add_argument("--ramp", type=float, default=3.0, help="seconds in which the streams begin")
    parser.add_argument("--duration", type=float, default=8.0, help="seconds")
    args = parser.parse_args(arguments)
    slots = str(2 * max(args.streams))
    rows = []
    context = multiprocessing.get_context("spawn")
    with (
        OwnServer(["--max-concurrency", slots], "benchmarks.stand_in") as server,
        ProcessPoolExecutor(1, context) as crowd,
    ):
        crowd.submit(ready).result()
        server.wait_ready()
        for name in args.formats:
            for streams in args.streams:
                rows.append(measure(server, crowd, name, streams, args.ramp, args.duration))
                print(f"{name}, {streams}: {rows[-1]['cpu_us']} us", file=sys.stderr, flush=True)
    print_table(rows)
    print_document(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
