"""Measures a running server over HTTP as a client hears it: time to first audio, real-time factor, underruns.

    python -m benchmarks.serve --url http://127.0.0.1:8000 --concurrency 1 4 --requests 20

`concurrency` streams are kept busy at once. A stream is played in real time from its first chunk on; it underruns when
the player needs a sample that has not come. First audible is when the first sample above 1 % of full scale comes.
A table for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import time
from array import array
from dataclasses import asdict, dataclass

import httpx

BYTES_PER_SECOND = 48_000
AUDIBLE = 327  # of 32767
SHORT = ["Yes, of course.", "Hello there!", "One moment, please."]
MEDIUM = [
    "Your order has been shipped and should arrive on Tuesday afternoon.",
    "Please leave your coat at the door, and come in out of the rain.",
    "I am sorry, I did not catch that. Could you say it once more?",
]
LONG = [
    "Thank you for waiting. I have looked into your account, and I can see that the payment went through this morning. "
    "You should receive a confirmation by mail within the next hour. If it does not arrive, please call us again.",
]
TEXTS = {"short": SHORT, "medium": MEDIUM, "long": LONG}


@dataclass(frozen=True)
class Heard:
    """One request as the client saw it; all times in seconds."""

    ttfa: float
    first_audible: float
    total: float
    audio: float
    late: float  # the longest that playback had to wait

    @property
    def rtf(self) -> float:
        return self.total / self.audio


@dataclass(frozen=True)
class Row:
    """Many requests of one kind."""

    text: str
    concurrency: int
    requests: int
    ttfa_p50_ms: float
    ttfa_p95_ms: float
    first_audible_p50_ms: float
    rtf_p50: float
    rtf_max: float
    underruns: int
    worst_wait_ms: float


async def speak(client: httpx.AsyncClient, text: str, voice: str, seed: int) -> Heard:
    """One request for pcm, read as it comes."""
    body = {"model": "tts-1", "input": text, "voice": voice, "response_format": "pcm", "seed": seed}
    began = time.perf_counter()
    first = audible = late = 0.0
    received = 0
    async with client.stream("POST", "/v1/audio/speech", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"{response.status_code}: {(await response.aread()).decode()}")
        async for chunk in response.aiter_raw():
            now = time.perf_counter() - began
            first = first or now
            # Everything received before this chunk has been played at `first + its length`.
            late = max(late, now - first - received / BYTES_PER_SECOND) if received else 0.0
            received += len(chunk)
            if not audible and any(abs(sample) > AUDIBLE for sample in array("h", chunk[: len(chunk) // 2 * 2])):
                audible = now
    total = time.perf_counter() - began
    if not received:
        raise SystemExit("an answer without audio")
    return Heard(first, audible, total, received / BYTES_PER_SECOND, late)


async def measure(url: str, kind: str, concurrency: int, requests: int, voices: list[str]) -> Row:
    """`concurrency` workers share `requests` requests, begun a little apart."""
    texts, heard = TEXTS[kind], []
    numbers = iter(range(requests))
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def worker(index: int) -> None:
            await asyncio.sleep(0.05 * index)
            for number in numbers:
                voice = voices[number % len(voices)]
                heard.append(await speak(client, texts[number % len(texts)], voice, number))

        await speak(client, texts[0], voices[0], 0)
        await asyncio.gather(*(worker(i) for i in range(concurrency)))
    return summary(kind, concurrency, heard)


def summary(kind: str, concurrency: int, heard: list[Heard]) -> Row:
    ttfa = sorted(h.ttfa * 1000 for h in heard)
    return Row(
        text=kind,
        concurrency=concurrency,
        requests=len(heard),
        ttfa_p50_ms=round(statistics.median(ttfa), 1),
        ttfa_p95_ms=round(ttfa[min(len(ttfa) - 1, int(0.95 * len(ttfa)))], 1),
        first_audible_p50_ms=round(statistics.median(h.first_audible * 1000 for h in heard), 1),
        rtf_p50=round(statistics.median(h.rtf for h in heard), 3),
        rtf_max=round(max(h.rtf for h in heard), 3),
        underruns=sum(h.late > 0.001 for h in heard),
        worst_wait_ms=round(max(h.late for h in heard) * 1000, 1),
    )


def print_table(rows: list[Row]) -> None:
    names = list(asdict(rows[0]))
    print("  ".join(f"{name:>{max(8, len(name))}}" for name in names))
    for row in rows:
        print("  ".join(f"{value!s:>{max(8, len(name))}}" for name, value in asdict(row).items()))


def commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--requests", type=int, default=20, help="for each text length and concurrency")
    parser.add_argument("--texts", nargs="+", choices=list(TEXTS), default=list(TEXTS))
    parser.add_argument("--voices", nargs="+", default=["tara", "leo"])
    args = parser.parse_args()
    rows = []
    for concurrency in args.concurrency:
        for kind in args.texts:
            rows.append(asyncio.run(measure(args.url, kind, concurrency, args.requests, args.voices)))
    print_table(rows)
    machine = f"{platform.machine()}, {platform.system()}"
    print(json.dumps({"commit": commit(), "machine": machine, "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
