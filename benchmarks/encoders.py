"""What each format costs the server, without one: opening an encoder, a chunk of 85 ms, and what is kept back.

    python -m benchmarks.encoders --wav speech.wav --streams 16 256

Costs are processor time, so other work on the machine does not count. Held is the most speech, in ms, that had gone in
and could not be decoded yet. A burst is one chunk for each of many streams at once, as a batch makes them: on the event
loop, which does nothing else meanwhile, and in threads, with the longest that the loop then stood still.
The wav is 24 kHz, 16-bit, mono. A table for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
import wave
from dataclasses import asdict, dataclass
from itertools import pairwise

from api.audio import AudioEncoder, encoder_for
from benchmarks.formats import print_table
from benchmarks.hearing import RATE, decoded, match
from benchmarks.report import commit
from schemas.speech import ResponseFormat

FIRST, CHUNK = 2 * 1387, 2 * 2048  # bytes, as the engine sends
FINE = 2 * 120


@dataclass(frozen=True)
class Cost:
    """Milliseconds; `held` and `first_audio` are milliseconds of speech."""

    format: str
    open_ms: float
    chunk_ms: float
    flush_ms: float
    first_audio_ms: float
    held_ms: float


@dataclass(frozen=True)
class Burst:
    """One chunk for each of `streams` encoders, in milliseconds."""

    format: str
    streams: int
    on_loop_ms: float
    in_threads_ms: float
    loop_stood_ms: float


def cost(audio_format: ResponseFormat, chunks: list[bytes], repeats: int = 8) -> Cost:
    opened, flushed, chunked = [], [], []
    for _ in range(repeats):
        moments = [time.process_time()]
        encoder = encoder_for(audio_format)
        moments.append(time.process_time())
        for chunk in chunks:
            encoder.encode(chunk)
        moments.append(time.process_time())
        encoder.flush()
        spent = [(b - a) * 1000 for a, b in pairwise([*moments, time.process_time()])]
        opened.append(spent[0])
        chunked.append(spent[1] / len(chunks))
        flushed.append(spent[2])
    first, held = kept_back(audio_format, b"".join(chunks))
    open_ms, chunk_ms, flush_ms = (round(statistics.median(spent), 3) for spent in (opened, chunked, flushed))
    return Cost(audio_format.value, open_ms, chunk_ms, flush_ms, round(first, 1), round(held, 1))


def kept_back(audio_format: ResponseFormat, pcm: bytes) -> tuple[float, float]:
    """How much must go in before the first sample can be decoded, and the most that ever waits, in ms of speech."""
    whole = encoder_for(audio_format)
    heard = decoded(whole.encode(pcm) + whole.flush(), audio_format.value)
    delay = match(heard, decoded(pcm, "pcm")).delay
    encoder, data, first, held = encoder_for(audio_format), b"", 0, 0
    for given in range(FINE, RATE, FINE):
        out = encoder.encode(pcm[given - FINE : given])
        if out:
            # The worst moment is just before something leaves.
            held = max(held, (given - FINE) // 2 - max(0, len(decoded(data, audio_format.value)) - delay))
        data += out
        if not first and len(decoded(data, audio_format.value)):
            first = given // 2
    return first / RATE * 1000, held / RATE * 1000


async def burst(audio_format: ResponseFormat, streams: int, chunks: list[bytes]) -> Burst:
    encoders = [encoder_for(audio_format) for _ in range(streams)]
    for encoder in encoders:
        encoder.encode(chunks[1])
    alone, together, stood = [], [], []
    for chunk in chunks[2:7]:
        began = time.perf_counter()
        for encoder in encoders:
            encoder.encode(chunk)
        alone.append(time.perf_counter() - began)
        began = time.perf_counter()
        stood.append(await longest_pause(encoders, chunk))
        together.append(time.perf_counter() - began)
    on_loop, in_threads, loop_stood = (round(min(spent) * 1000, 1) for spent in (alone, together, stood))
    return Burst(audio_format.value, streams, on_loop, in_threads, loop_stood)


async def longest_pause(encoders: list[AudioEncoder], chunk: bytes) -> float:
    """Encodes in threads; the longest that another task of the loop had to wait for its turn, in seconds."""
    work = asyncio.gather(*(asyncio.to_thread(encoder.encode, chunk) for encoder in encoders))
    moments = [time.perf_counter()]
    while not work.done():
        await asyncio.sleep(0)
        moments.append(time.perf_counter())
    await work
    return max(b - a for a, b in pairwise(moments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wav", required=True)
    parser.add_argument("--streams", type=int, nargs="+", default=[16, 256])
    args = parser.parse_args()
    with wave.open(args.wav) as file:
        pcm = file.readframes(file.getnframes())
    chunks = [pcm[:FIRST], *(pcm[start : start + CHUNK] for start in range(FIRST, len(pcm) - CHUNK, CHUNK))]
    costs = [cost(audio_format, chunks) for audio_format in ResponseFormat]
    print_table(costs)
    print()
    bursts = [asyncio.run(burst(f, streams, chunks)) for f in ResponseFormat for streams in args.streams]
    print_table(bursts)
    machine = f"{platform.machine()}, {platform.system()}, {os.cpu_count()} CPUs"
    rows = {"costs": [asdict(row) for row in costs], "bursts": [asdict(row) for row in bursts]}
    print(json.dumps({"commit": commit(), "machine": machine} | rows))


if __name__ == "__main__":
    main()
