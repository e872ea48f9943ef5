"""Three `lyre serve` behind each balancer of deploy/balancers: is anybody refused, cut off or kept waiting?

    python -m benchmarks.balancers                      the demo voice behind HAProxy, Envoy and nginx
    python -m benchmarks.balancers --kinds envoy --requests 120

Full load: as many callers as there are slots, each asking again at once, so that any uneven choice meets a full server.
Restart: callers for half of the slots while all servers are restarted one after another. An answer counts as cut when
its connection breaks or when it is not as long as the same request's was when it was asked of a server directly.
Added: first bytes through the balancer less first bytes from the same server directly, in turns, medians.
Freed: from a caller's hanging up, mid-speech, to the free slot. Servers have no queue of their own: whoever is sent to
a full one must be sent on. A table for people; the last line is one JSON document. Status 1 when anything failed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from benchmarks.fleet import Fleet
from benchmarks.listening import AnswerError, Server, Window
from benchmarks.proxy import FILES, SETTLE_SECONDS, Proxy
from benchmarks.report import percentile, print_document, print_table
from benchmarks.serve import LONG, SHORT

SLOTS = 2
SERVERS = 3
ARGUMENTS = ("--max-concurrency", str(SLOTS), "--max-queue", "0", "--cpu-threads", "1", "--drain-seconds", "60")
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
FREED_PATIENCE = 30.0


@dataclass
class Tally:
    """What callers got. `first`: seconds to the first bytes; `errors`: refused, cut or too short, by what was said."""

    first: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def asked(self) -> int:
        """Requests in all."""
        return len(self.first) + self.errors.total()

    @property
    def refused(self) -> int:
        """Those that were answered, but not with speech."""
        return sum(count for error, count in self.errors.items() if error.startswith("HTTP/1.1 "))


def body(number: int) -> dict[str, Any]:
    """Request `number`: with its seed it is the same speech each time, on any server."""
    return {"input": SHORT[number % len(SHORT)], "voice": "tara", "seed": number % len(SHORT)}


async def lengths(url: str) -> list[int]:
    """Bytes of each of the bodies, asked of a server directly."""
    server = Server(url, None, Window())
    heard = [await server.speak(body(number)) for number in range(len(SHORT))]
    await server.close()
    return [one.received for one in heard]


async def keep_busy(url: str, callers: int, expected: Sequence[int], more: Callable[[int], bool]) -> Tally:
    """Callers who ask again as soon as they have heard all, as long as `more` says so of the request's number."""
    tally, numbers = Tally(), iter(range(10**9))
    server = Server(url, None, Window())

    async def caller() -> None:
        while more(number := next(numbers)):
            try:
                heard = await server.speak(body(number))
            except AnswerError as error:
                tally.errors[str(error)[:200]] += 1
                continue
            if heard.received == expected[number % len(expected)]:
                tally.first.append(heard.first)
            else:
                tally.errors[f"{heard.received} bytes instead of {expected[number % len(expected)]}"] += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    await server.close()
    return tally


async def while_busy(url: str, callers: int, expected: Sequence[int], work: Callable[[], object]) -> Tally:
    """The same for as long as `work` takes, in a thread of its own, and a little longer."""
    task = asyncio.create_task(asyncio.to_thread(work))
    tally = await keep_busy(url, callers, expected, lambda number: not task.done())
    await task
    return tally


async def freed_after(url: str, running: Callable[[], int]) -> float:
    """Seconds from hanging up in the middle of a long speech until `running` is 0 again. TimeoutError."""
    window = Window(end=perf_counter())
    # This window is over: the caller hangs up as soon as there is something to hear.
    heard = await Server(url, None, window).speak({"input": " ".join(LONG * 4), "voice": "tara"})
    assert not heard.whole
    left = perf_counter()
    while await asyncio.to_thread(running):
        if perf_counter() - left > FREED_PATIENCE:
            raise TimeoutError("the slot was not freed")
        await asyncio.sleep(0.005)
    return perf_counter() - left


async def added(direct: str, through: str, pairs: int) -> float:
    """Seconds that the first bytes come later `through`, the median's difference, asked in turns."""
    servers = [Server(url, None, Window()) for url in (direct, through)]
    first: list[list[float]] = [[], []]
    for number in range(pairs + 1):
        for index in (0, 1) if number % 2 else (1, 0):
            heard = await servers[index].speak(body(number))
            # The first pair opens connections.
            first[index] += [heard.first] if number else []
    await asyncio.gather(*(server.close() for server in servers))
    return statistics.median(first[1]) - statistics.median(first[0])


def measured(kind: str, fleet: Fleet, args: argparse.Namespace) -> dict[str, Any]:
    """One balancer's row."""
    expected = asyncio.run(lengths(fleet.urls[0]))
    with Proxy(kind, fleet.ports, SLOTS) as proxy:
        freed = [asyncio.run(freed_after(proxy.url, fleet.running)) for _ in range(args.hang_ups)]
        full = asyncio.run(keep_busy(proxy.url, SLOTS * SERVERS, expected, lambda number: number < args.requests))
        began = time.monotonic()
        busy = asyncio.run(while_busy(proxy.url, SLOTS * SERVERS // 2, expected, fleet.restart_all))
        seconds = time.monotonic() - began
    with Proxy(kind, fleet.ports[:1] * SERVERS, SLOTS) as proxy:
        delay = asyncio.run(added(fleet.urls[0], proxy.url, args.pairs))
    time.sleep(SETTLE_SECONDS)
    for error, count in (full.errors + busy.errors).most_common(5):
        print(f"{kind}: {count} x {error}", file=sys.stderr)
    return {
        "balancer": kind,
        "full_load": full.asked,
        "rejected": full.refused,
        "failed": full.errors.total(),
        "ttfb_p50": _ms(percentile(full.first, 0.5)),
        "ttfb_p99": _ms(percentile(full.first, 0.99)),
        "restart": busy.asked,
        "restart_s": round(seconds, 1),
        "restart_failed": busy.errors.total(),
        "added_p50": _ms(delay),
        "freed_max": _ms(max(freed)),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--requests", type=int, default=120, help="at full load")
    parser.add_argument("--pairs", type=int, default=40, help="for the first bytes that come later")
    parser.add_argument("--hang-ups", type=int, default=5)
    args = parser.parse_args(arguments)
    with Fleet(SERVERS, ARGUMENTS, ENVIRONMENT) as fleet:
        rows = [measured(kind, fleet, args) for kind in args.kinds]
    print(f"{SERVERS} servers of {SLOTS} slots; times in ms")
    print_table(rows)
    print_document(rows, servers=SERVERS, slots=SLOTS)
    return 1 if any(row["failed"] or row["restart_failed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
