"""What a piece of audio costs the server's process from an engine process to its reader, and how long that takes.

    python -m benchmarks.transport --streams 1 16 256 800

An engine process without a model sends a frame (4,096 bytes) for every stream each `--pace` ms, through the real
sockets, to the real Engine; a task reads each stream. Microseconds of the server's processor time a piece, so that
other work on the machine does not count, and milliseconds (medians over the frames) from before a frame is sent until
its first and its last piece are read. A table for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import struct
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass

import uvloop

from benchmarks.report import commit, print_table
from engine import Engine, EngineConfig, SpeechStream, process
from engine.link import WorkerLink
from engine.messages import Audio, Finished, Generate, ModelInfo, Ready, SamplingDefaults, Stop

PIECE = 4096
STAMP = struct.Struct("d")
PLAN = "TRANSPORT_BENCHMARK"  # the variable that tells the engine process: streams, frames, seconds between them


@dataclass(frozen=True)
class Row:
    """One number of streams on one number of engine processes."""

    loop: str
    processes: int
    streams: int
    pieces: int
    cpu_us: float
    first_ms: float
    last_ms: float


def fake_worker(inbox: str, outbox: str) -> None:
    """In place of engine.worker: speaks when all streams have come."""
    link = WorkerLink(inbox, outbox)
    streams, frames, pace = json.loads(os.environ[PLAN])
    defaults = SamplingDefaults(0.6, 0.9, 0, 1.1, 0)
    link.send([Ready(ModelInfo("m", "c", False, ["ana"], defaults, 24_000, "-", "-", "-", "-", streams, 2560, 0, 0.0))])
    requests: list[int] = []
    while True:
        for message in link.receive(None):
            if isinstance(message, Stop):
                return
            if isinstance(message, Generate):
                requests.append(message.request_id)
        if len(requests) == streams:
            speak(link, requests, frames, pace)
            requests = []


def speak(link: WorkerLink, requests: list[int], frames: int, pace: float) -> None:
    """One message a frame."""
    # The server sits down to read before it comes.
    time.sleep(0.3)
    due = time.monotonic()
    for frame in range(1, frames + 1):
        pcm = STAMP.pack(time.monotonic()) + bytes(PIECE - STAMP.size)
        link.send([Audio(request, pcm, 7 * frame) for request in requests])
        due += pace
        time.sleep(max(0.0, due - time.monotonic()))
    link.send([Finished(request, "stop", 1, 7 * frames) for request in requests])


async def listen(stream: SpeechStream, delays: dict[int, list[float]]) -> None:
    """Reads to the end; notes each piece's age under the number of its frame."""
    frame = 0
    async for piece in stream:
        delays[frame].append(time.monotonic() - STAMP.unpack_from(piece)[0])
        frame += 1


async def measure(loop: str, processes: int, streams: int, frames: int, pace: float) -> Row:
    """`streams` in all, shared evenly among the engine processes."""
    os.environ[PLAN] = json.dumps([streams // processes, frames, pace])
    engine = Engine(EngineConfig(devices=",".join(["cpu"] * processes), max_concurrency=streams))
    await engine.start()
    delays: dict[int, list[float]] = defaultdict(list)
    readers = [
        asyncio.create_task(listen(engine.submit("Hello there.", "ana"), delays))
        for _ in range(streams // processes * processes)
    ]
    await asyncio.sleep(0.1)
    began = time.process_time()
    await asyncio.gather(*readers)
    taken = time.process_time() - began
    await engine.stop()
    pieces = sum(map(len, delays.values()))
    return Row(
        loop=loop,
        processes=processes,
        streams=len(readers),
        pieces=pieces,
        cpu_us=round(1e6 * taken / pieces, 2),
        first_ms=round(1000 * statistics.median(map(min, delays.values())), 2),
        last_ms=round(1000 * statistics.median(map(max, delays.values())), 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 256, 800])
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--loop", nargs="+", choices=["asyncio", "uvloop"], default=["uvloop"])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--pace", type=float, default=85.0, help="milliseconds between two frames")
    args = parser.parse_args()
    process.WORKER = "benchmarks.transport"
    rows = []
    for loop in args.loop:
        run = uvloop.run if loop == "uvloop" else asyncio.run
        for processes in args.processes:
            for streams in args.streams:
                rows.append(run(measure(loop, processes, streams, args.frames, args.pace / 1000)))
    print_table([asdict(row) for row in rows])
    machine = f"{platform.machine()}, {platform.system()}"
    print(json.dumps({"commit": commit(), "machine": machine, "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    if PLAN in os.environ:
        fake_worker(*sys.argv[1:3])
    else:
        main()
