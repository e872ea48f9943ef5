"""Clients that mean harm, or nothing: whether the server stays alive, and what its listeners notice.

    python -m benchmarks.hostile --seconds 30 -- --max-concurrency 4

What follows `--` are flags of `lyre serve`; `--url` takes a server that runs. Another process attacks, all at once:
idle connections, heads and bodies that come a byte a second, headers of 200 kB, bodies one byte over the cap, noise, a
TLS handshake, what scanners ask for. Meanwhile /health/live is asked four times a second and single requests measure
the time to first audio, before and during. Exit status 1 when a health check fails, a request is not whole to the
sample, an attack got an answer that it should not have, or the median of the times more than doubled. A table for
people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import resource
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from benchmarks.judge import WHOLE, judge, name_of, references, speech
from benchmarks.load import ready
from benchmarks.report import percentile, print_document, print_table
from benchmarks.target import Target, add_target, on_target
from benchmarks.wire import SPEECH, ask, get

CAP = 128 * 1024
HELLO = bytes.fromhex("160301020001fc0303") + bytes(range(256)) * 2
SCANS = (
    "/.env",
    "/.git/config",
    "/wp-login.php",
    "/cgi-bin/.%2e/.%2e/etc/passwd",
    "/actuator/health",
    "/%00",
    "/a" * 300,
)
PROBED = [speech(number) | {"max_tokens": 28} for number in range(4)]
TIMES = 2.0
"""How many times the time to first audio may grow."""
HEALTH_SECONDS = 0.25
READ_SECONDS = 30.0
Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter, float], Awaitable[str]]


@dataclass(frozen=True)
class Orders:
    """Of the process that attacks: until when (monotonic), how many hold a connection, how many come in a second."""

    url: str
    end: float
    idle: int
    slow: int
    rate: float
    seed: int = 0


def attack(orders: Orders) -> Counter[tuple[str, str]]:
    """Until its end; -> how often each attack got what."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return asyncio.run(_attack(orders))


async def _attack(orders: Orders) -> Counter[tuple[str, str]]:
    got: Counter[tuple[str, str]] = Counter()
    parts = urlsplit(orders.url)
    draw = random.Random(orders.seed)

    async def one(name: str, work: Attack) -> None:
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError as error:
            got[name, type(error).__name__] += 1
            return
        try:
            got[name, await work(reader, writer, orders.end)] += 1
        except (OSError, TimeoutError) as error:
            got[name, "cut" if isinstance(error, ConnectionError) else type(error).__name__] += 1
        finally:
            writer.transport.abort()

    async def steadily(name: str, work: Attack) -> None:
        while perf_counter() < orders.end:
            await one(name, work)
            await asyncio.sleep(len(QUICK) * draw.uniform(0.5, 1.5) / orders.rate)

    holders = [("idle", _idle)] * orders.idle + [("slow head", _slow_head), ("slow body", _slow_body)] * orders.slow
    async with asyncio.TaskGroup() as group:
        for name, work in [*QUICK.items()]:
            group.create_task(steadily(name, work))
        for name, work in holders:
            group.create_task(one(name, work))
            await asyncio.sleep(0.001)
    return got


async def _idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: float) -> str:
    return await _until(reader, end)


async def _slow_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: float) -> str:
    return await _trickle(reader, writer, end, b"POST " + SPEECH.encode() + b" HTTP/1.1\r\nhost: x\r\nx-filler: ")


async def _slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: float) -> str:
    writer.write(_head(5000))
    return await _trickle(reader, writer, end, b'{"input": "')


async def _trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: float, start: bytes) -> str:
    answer = asyncio.ensure_future(_until(reader, end))
    writer.write(start)
    while not answer.done():
        writer.write(b"a")
        await asyncio.wait({answer}, timeout=1.0)
    return answer.result()


async def _until(reader: asyncio.StreamReader, end: float) -> str:
    try:
        async with asyncio.timeout(max(0.0, end - perf_counter())):
            return _status(await reader.read(2000))
    except TimeoutError:
        return "left open"


async def _headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: float) -> str:
    return await _say(reader, writer, b"GET /v1 HTTP/1.1\r\nhost: x\r\nx-filler: " + b"a" * 200_000 + b"\r\n\r\n")


async def _body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: float) -> str:
    return await _say(reader, writer, _head(CAP + 1) + b'{"input": "' + b"a" * (CAP - 12) + b'"}')


async def _noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: float) -> str:
    return await _say(reader, writer, random.randbytes(2000) + b"\r\n\r\n")


async def _tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: float) -> str:
    return await _say(reader, writer, HELLO)


async def _scan(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: float) -> str:
    path = random.choice(SCANS)
    return await _say(reader, writer, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())


async def _say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> str:
    """Sends, and reads the beginning of the answer; a server that hangs up meanwhile has answered, too."""
    writer.write(data)
    async with asyncio.timeout(READ_SECONDS):
        return _status(await reader.read(2000))


QUICK: dict[str, Attack] = {
    "200 kB of header": _headers,
    "body over the cap": _body,
    "noise": _noise,
    "TLS": _tls,
    "scan": _scan,
}
EXPECTED = {
    "200 kB of header": {"400", "431", "cut"}, "body over the cap": {"413", "cut"}, "noise": {"400", "cut"},
    "TLS": {"400", "cut"}, "scan": {"404", "400"}, "idle": {"left open", "cut", "408"},
    "slow head": {"left open", "cut", "408", "400"}, "slow body": {"left open", "cut", "408"},
}  # fmt: skip


def _head(length: int) -> bytes:
    return f"POST {SPEECH} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


def _status(data: bytes) -> str:
    return data.split(b" ", 2)[1].decode() if data.startswith(b"HTTP/1.") else "cut"


async def first_audio(url: str, spoken: dict[str, bytes], end: float, wrong: list[str]) -> list[float]:
    """Times of single requests, one after another, until the end; `wrong` gets what was not whole."""
    times: list[float] = []
    while perf_counter() < end:
        body = PROBED[len(times) % len(PROBED)]
        answer = await ask(url, body)
        verdict = judge(body, answer, spoken.get(name_of(body)))
        if verdict != WHOLE:
            wrong.append(f"a request: {verdict} {answer.status} {answer.error}")
        times.append(answer.first or answer.ended or 0.0)
        await asyncio.sleep(0.1)
    return times


async def alive(url: str, end: float, wrong: list[str]) -> list[float]:
    """Seconds that each health check took, on connections of their own as probes make them."""
    times = []
    while perf_counter() < end:
        began = perf_counter()
        try:
            if (status := await get(url, "/health/live")) != 200:
                wrong.append(f"/health/live: {status}")
        except (OSError, ValueError) as error:
            wrong.append(f"/health/live: {type(error).__name__}")
        times.append(perf_counter() - began)
        await asyncio.sleep(HEALTH_SECONDS)
    return times


async def phase(name: str, url: str, spoken: dict[str, bytes], end: float, wrong: list[str]) -> dict[str, Any]:
    """A line of the table."""
    first, health = await asyncio.gather(first_audio(url, spoken, end, wrong), alive(url, end, wrong))
    return {
        "phase": name, "requests": len(first), "ttfa_p50_ms": _ms(first, 0.5), "ttfa_p95_ms": _ms(first, 0.95),
        "live_p50_ms": _ms(health, 0.5), "live_max_ms": _ms(health, 1.0),
    }  # fmt: skip


async def measure(found: Target, args: argparse.Namespace) -> int:
    """-> the exit status."""
    spoken = {} if args.loose else await references(found.url, PROBED)
    wrong: list[str] = []
    base = await phase("in peace", found.url, spoken, perf_counter() + args.seconds / 2, wrong)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as others:
        others.submit(ready).result()
        end = perf_counter() + args.seconds
        attackers = others.submit(attack, Orders(found.url, end, args.idle, args.slow, args.rate))
        met = await phase("attacked", found.url, spoken, end, wrong)
        got = await asyncio.wrap_future(attackers)
    rows = [base, met, await phase("afterwards", found.url, spoken, perf_counter() + args.seconds / 6, wrong)]
    times = met["ttfa_p50_ms"] / base["ttfa_p50_ms"]
    if times > TIMES:
        wrong.append(f"the time to first audio became {times:.2f} times as long")
    wrong += [f"{name} got {what} ({n} times)" for (name, what), n in got.items() if what not in EXPECTED[name]]
    print_table(rows)
    print_table([{"attack": name, "got": what, "times": number} for (name, what), number in sorted(got.items())])
    print(f"the time to first audio was {times:.2f} times as long")
    print("\n".join(sorted(set(wrong)) or ["alive all the time"]))
    attacks = [[*kind, number] for kind, number in sorted(got.items())]
    print_document(rows, times=round(times, 2), attacks=attacks, idle=args.idle, slow=args.slow, wrong=wrong)
    return 1 if wrong else 0


def _ms(times: Sequence[float], share: float) -> float:
    return round(1000 * (percentile(times, share) or 0.0), 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="of attacks; half of it before, in peace")
    parser.add_argument("--idle", type=int, default=1000, help="connections that say nothing")
    parser.add_argument("--slow", type=int, default=100, help="heads, and as many bodies, a byte a second")
    parser.add_argument("--rate", type=float, default=20, help="other attacks a second")
    parser.add_argument("--loose", action="store_true", help="do not compare samples")
    add_target(parser)
    args = parser.parse_args(arguments)
    return on_target(args, lambda found: asyncio.run(measure(found, args)))


if __name__ == "__main__":
    sys.exit(main())
