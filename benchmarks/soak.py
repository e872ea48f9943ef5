"""Runs a server for minutes under mixed traffic and looks for what grows: memory, descriptors, threads, lost slots.

    python -m benchmarks.soak --minutes 10 --most 16 -- --device auto
    python -m benchmarks.soak --generations 5000 --most 16

What follows `--` are flags of `lyre serve`; with `--url` and `--pid` a server that already runs on this machine is
taken. Rounds of traffic, each followed by a rest in which every slot must come free and what the processes hold is
read. Traffic: texts of a word to a paragraph, all voices, formats and events; clients that leave in the middle;
requests that are wrong; connections cut in the middle of a request; as many at once as a number that changes every few
seconds, up to `--most`. In the first round all of them work, with long texts, so that all that is ever touched has
been: let `--most` be the server's `--max-concurrency`. With `--generations`, all of them listen to short texts, in all
formats, until so many have been heard to their end. Growth is counted from the rest after the first third of the
rounds to the last. Exit status 1 when anything grew beyond its bound, an answer was not what it must be, or a process
died. A table for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import httpx

from benchmarks.report import print_document, print_table
from benchmarks.target import add_target, on_target
from benchmarks.vitals import Vitals, engines, gpu_mib, vitals

SPEECH = "/v1/audio/speech"
WORDS = [
    "the", "rain", "came", "in", "from", "the", "sea", "and", "nobody", "at", "the", "station",
    "had", "an", "umbrella", "so", "we", "waited", "under", "the", "clock", "and", "talked", "about",
    "bread", "trains", "winter", "and", "the", "price", "of", "coffee", "until", "half", "past", "nine",
    "when", "the", "last", "bus", "left", "without", "us",
]  # fmt: skip
STARTS = {"wav": (b"RIFF",), "flac": (b"fLaC",), "opus": (b"OggS",), "mp3": (b"\xff", b"ID3"), "aac": (b"\xff",)}
FORMATS = ("pcm", *STARTS)
# Each with the status that it must get.
WRONG: tuple[tuple[dict[str, Any], int], ...] = (
    ({"input": "", "voice": "tara"}, 400),
    ({"voice": "tara"}, 400),
    ({"input": "Hello.", "voice": "nobody"}, 400),
    ({"input": "Hello.", "voice": "tara", "response_format": "midi"}, 400),
    ({"input": "a" * 5000, "voice": "tara"}, 400),
    ({"input": "Hello.", "voice": "tara", "temperature": 9}, 400),
    ({"input": ["Hello."], "voice": 7}, 400),
)
MOST_TOKENS = 1400  # of an answer, 17 s: a model that never ends its speech is cut there
SHORT_TOKENS = 105  # 1.3 s
REST_SECONDS = 20.0  # in which every slot must come free


@dataclass
class Round:
    """What happened between two rests."""

    counts: Counter[str] = field(default_factory=Counter)
    audio_bytes: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, what: str) -> None:
        self.counts["faults"] += 1
        self.faults.append(what)


Kind = Callable[[httpx.AsyncClient, Round], Awaitable[None]]


class Traffic:
    """Clients of one server, drawn from one seed."""

    def __init__(self, url: str, voices: list[str], most: int, seed: int) -> None:
        self._url, self._voices, self._most, self._draw = url, voices, most, random.Random(seed)

    async def run(self, seconds: float, full: bool, generations: int | None = None) -> Round:
        """`most` clients for so long, of which a changing number work; `full`: all of them, with long texts.

        `generations`: all of them, with short texts, until so many have been heard, however long that takes.
        """
        done, end = Round(), monotonic() + seconds
        at_once = [self._most]

        def over() -> bool:
            return monotonic() >= end if generations is None else done.counts["whole"] >= generations

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self._most)
        async with httpx.AsyncClient(base_url=self._url, timeout=120, limits=limits) as client:

            async def worker(index: int) -> None:
                while not over():
                    if index < at_once[0]:
                        await self._one(client, done, self._kind(full, generations is not None))
                    else:
                        await asyncio.sleep(0.2)

            async def change() -> None:
                while not (full or generations or over()):
                    at_once[0] = self._draw.randint(1, self._most)
                    await asyncio.sleep(self._draw.uniform(2, 8))

            await asyncio.gather(change(), *(worker(index) for index in range(self._most)))
        return done

    def _kind(self, full: bool, short: bool) -> Kind:
        if short:
            return self._short
        kinds: list[Kind] = [self._listen, self._leave, self._wrong, self._cut]
        return self._long if full else self._draw.choices(kinds, (60, 20, 15, 5))[0]

    async def _one(self, client: httpx.AsyncClient, done: Round, kind: Kind) -> None:
        try:
            await kind(client, done)
        except (httpx.TransportError, OSError) as error:
            done.fault(f"{kind.__name__.strip('_')}: {type(error).__name__}: {error}")
            await asyncio.sleep(0.5)

    def _request(self, words: int) -> dict[str, Any]:
        text = " ".join(self._draw.choices(WORDS, k=words)).capitalize() + "."
        return {
            "model": "tts-1", "input": text, "voice": self._draw.choice(self._voices), "max_tokens": MOST_TOKENS,
            "response_format": self._draw.choice(FORMATS), "seed": self._draw.randrange(2**31),
        }  # fmt: skip

    async def _long(self, client: httpx.AsyncClient, done: Round) -> None:
        await self._hear(client, done, self._request(words=90))

    async def _short(self, client: httpx.AsyncClient, done: Round) -> None:
        request = self._request(words=self._draw.choice((1, 2, 4)))
        await self._hear(client, done, request | {"max_tokens": SHORT_TOKENS})

    async def _listen(self, client: httpx.AsyncClient, done: Round) -> None:
        request = self._request(words=self._draw.choice((1, 3, 8, 20, 60)))
        if self._draw.random() < 0.2:
            request |= {"stream_format": "sse", "response_format": "pcm"}
        if self._draw.random() < 0.2:
            request["speed"] = self._draw.choice((0.5, 1.3, 2.0))
        await self._hear(client, done, request)

    async def _hear(self, client: httpx.AsyncClient, done: Round, request: dict[str, Any]) -> None:
        """To the end."""
        size, head = 0, b""
        async with client.stream("POST", SPEECH, json=request) as answer:
            async for chunk in answer.aiter_raw():
                head = head or chunk
                size += len(chunk)
        if _refused(answer, done):
            return
        sse = "stream_format" in request
        starts = (b"data:", b"event:") if sse else STARTS.get(request["response_format"], (b"",))
        if answer.status_code != 200 or size < 500 or not head.startswith(starts):
            done.fault(f"{request['response_format']}{' as events' * sse}: {answer.status_code}, {size} bytes")
        done.counts["whole"] += 1
        done.audio_bytes += size

    async def _leave(self, client: httpx.AsyncClient, done: Round) -> None:
        """In the middle, or before the first sound."""
        request, patience = self._request(words=40), self._draw.uniform(0.0, 1.5)
        done.counts["left"] += 1
        try:
            async with asyncio.timeout(patience), client.stream("POST", SPEECH, json=request) as answer:
                async for _ in answer.aiter_raw():
                    pass
        except TimeoutError:
            return
        if not _refused(answer, done) and answer.status_code != 200:
            done.fault(f"before it was left: {answer.status_code}")

    async def _wrong(self, client: httpx.AsyncClient, done: Round) -> None:
        body, expected = self._draw.choice(WRONG)
        answer = await client.post(SPEECH, json=body)
        done.counts["wrong"] += 1
        if answer.status_code != expected or "error" not in answer.json():
            done.fault(f"a wrong request ({', '.join(body)}): {answer.status_code} instead of {expected}")

    async def _cut(self, client: httpx.AsyncClient, done: Round) -> None:
        """A connection that ends in the middle of its request."""
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"POST " + SPEECH.encode() + b' HTTP/1.1\r\nhost: x\r\ncontent-length: 400\r\n\r\n{"inp')
        await writer.drain()
        writer.close()
        done.counts["cut"] += 1


def _refused(answer: httpx.Response, done: Round) -> bool:
    """A full server may say so."""
    refused = answer.status_code == 503 and "retry-after" in answer.headers
    done.counts["refused"] += refused
    return refused


@dataclass(frozen=True)
class Rest:
    """What the processes hold while nothing runs; `busy`: requests that still held a place when the rest was over."""

    server: Vitals
    engine: Vitals
    gpu: float | None
    busy: int


async def rest(url: str, pid: int) -> Rest:
    """Waits until all slots are free, and a little longer."""
    end = monotonic() + REST_SECONDS
    async with httpx.AsyncClient(base_url=url, timeout=30, headers={"connection": "close"}) as client:
        while True:
            health = (await client.get("/health")).json()
            busy = health["running"] + health["waiting"]
            if not busy or monotonic() > end:
                break
            await asyncio.sleep(0.25)
    await asyncio.sleep(2)
    return Rest(vitals((pid,)), vitals(engines(pid)), gpu_mib(), busy)


def row(number: int, done: Round, held: Rest) -> dict[str, Any]:
    """A line of the table."""
    counts = {name: done.counts[name] for name in ("whole", "left", "wrong", "cut", "refused", "faults")}
    return {
        "round": number, **counts, "mb": round(done.audio_bytes / 1e6, 1), "busy": held.busy,
        "server_mib": held.server.rss_mib, "server_files": held.server.files, "server_threads": held.server.threads,
        "engine_mib": held.engine.rss_mib, "engine_files": held.engine.files, "engine_threads": held.engine.threads,
        "gpu_mib": held.gpu,
    }  # fmt: skip


def verdict(rows: Sequence[dict[str, Any]], rests: Sequence[Rest], bounds: dict[str, float]) -> list[str]:
    """What is wrong, in words; nothing when all is well."""
    wrong = [f"{line['faults']} faults in round {line['round']}" for line in rows if line["faults"]]
    wrong += [f"{line['busy']} requests held a place after round {line['round']}" for line in rows if line["busy"]]
    if len({(one.server.pids, one.engine.pids) for one in rests}) > 1:
        wrong.append("a process was replaced")
    if not all(one.engine.pids for one in rests):
        wrong.append("there is no engine process")
    first, last = rows[len(rows) // 3], rows[-1]
    for name, bound in bounds.items():
        if first[name] is not None and last[name] - first[name] > bound:
            wrong.append(f"{name} grew from {first[name]} to {last[name]}, more than {bound:g}")
    return wrong


async def soak(url: str, pid: int, args: argparse.Namespace) -> int:
    """All rounds and what they say; -> the exit status."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        voices = [voice["id"] for voice in (await client.get("/v1/audio/voices")).json()["voices"]]
    traffic, began = Traffic(url, voices, args.most, args.seed), monotonic()
    rows, rests, faults = [], [await rest(url, pid)], []
    for number in range(1, args.rounds + 1):
        share = args.generations and math.ceil(args.generations / args.rounds)
        done = await traffic.run(60 * args.minutes / args.rounds, number == 1 and not share, share)
        rests.append(await rest(url, pid))
        rows.append(row(number, done, rests[-1]))
        faults += done.faults
        print(f"round {number} of {args.rounds}: {dict(done.counts)}", file=sys.stderr, flush=True)
    # Pools of threads fill up when they are first needed.
    bounds = {
        "server_mib": args.grow_mib, "engine_mib": args.grow_mib, "gpu_mib": args.grow_mib,
        "server_files": 2, "engine_files": 2, "server_threads": 8, "engine_threads": 2,
    }  # fmt: skip
    wrong = verdict(rows, rests, bounds)
    print_table(rows)
    for line in [*wrong, *sorted(set(faults))[:10]]:
        print(line)
    print("nothing grew, nothing was lost" if not wrong else "NOT GOOD")
    print_document(rows, bounds=bounds, wrong=wrong, seconds=round(monotonic() - began), most=args.most)
    return 1 if wrong else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--generations", type=int, help="so many short texts, in place of minutes of mixed traffic")
    parser.add_argument("--rounds", type=int, default=6, help="six or more say more")
    parser.add_argument("--most", type=int, default=16, help="clients at once; as many as the server has slots")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grow-mib", type=float, default=32, help="how much each kind of memory may grow")
    add_target(parser)
    args = parser.parse_args(arguments)
    if (args.url is None) != (args.pid is None) or args.rounds < 2:
        parser.error("--url goes with --pid, and --rounds is two or more")
    return on_target(args, lambda found: asyncio.run(soak(found.url, found.pid or 0, args)))


if __name__ == "__main__":
    sys.exit(main())
