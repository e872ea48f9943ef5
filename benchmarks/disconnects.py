"""Clients that leave at any moment and in any way: how soon everything that they held is free again.

    python -m benchmarks.disconnects --count 200 -- --max-concurrency 4 --max-queue 8

What follows `--` are flags of `lyre serve`; `--url` takes a server that runs, with `--pid` one on this machine, and
then there is less to be seen of it. While listeners keep half of the slots busy, clients leave: with half of the head
or of the body sent, as soon as all is, while they wait in a queue, in the middle of pcm or of events; by closing, by
resetting, by ending only their own direction. When the last has left, and the listeners have stopped in the middle,
too, `free_s` is how long it takes until requests, engine rows, asyncio tasks, descriptors and threads are what they
were before. Every listener's speech must be whole to the sample. Exit status 1 when something is not free within
`--bound` seconds. A table for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import h11

from benchmarks.judge import EXPIRED, REFUSED, WHOLE, judge, name_of, references, speech
from benchmarks.report import print_document, print_table, rounded
from benchmarks.target import Target, add_target, on_target
from benchmarks.wire import Answer, Leaving, Wire, ask, request

POINTS = ("head", "body", "sent", "queued", "stream", "events")
WAYS: tuple[Leaving, ...] = ("close", "reset", "half")
PATIENCE = 60.0
POLL_SECONDS = 0.02
SPARE = {"threads": 8}
"""Pools of threads fill up when they are first needed; everything else must be exactly as before."""
LISTENED = [speech(number) | {"max_tokens": 210} for number in range(4)]
LONG = 6  # times a text: speech that nobody waits for the end of


@dataclass
class Load:
    """Listeners who hear request after request to its end, until told to stop."""

    url: str
    spoken: dict[str, bytes]
    verdicts: Counter[str] = field(default_factory=Counter)

    async def listen(self, index: int) -> None:
        """One of them."""
        number = index
        while True:
            body = LISTENED[number % len(LISTENED)]
            self.verdicts[judge(body, await ask(self.url, body), self.spoken.get(name_of(body)))] += 1
            number += 1


class Leavers:
    """Clients that leave, drawn from one seed."""

    def __init__(self, url: str, seed: int) -> None:
        self._url, self._draw = url, random.Random(seed)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.refused = 0

    async def leave(self, point: str, how: Leaving) -> None:
        """One of them; whoever is refused first tries again."""
        end = perf_counter() + PATIENCE
        while perf_counter() < end:
            wire = await Wire.open(self._url)
            try:
                if await self._reach(wire, point):
                    break
                self.refused += 1
                await asyncio.sleep(self._draw.uniform(0.05, 0.5))
            finally:
                wire.leave(how)
                if how == "half":
                    await self._to_its_end(wire)
        self.counts[point, how] += 1

    async def _reach(self, wire: Wire, point: str) -> bool:
        """To the point; False when the server was full."""
        body = speech(self._draw.randrange(8), "sse" if point == "events" else "pcm", LONG)
        data = request(self._url, body)
        head = data.index(b"\r\n\r\n") + 4
        sent = {"head": self._draw.randrange(1, head), "body": self._draw.randrange(head, len(data))}.get(point)
        await wire.send(data[:sent])
        if point == "sent":
            return True
        if point not in ("stream", "events"):
            # In a queue, if there is one just now.
            await asyncio.sleep(self._draw.uniform(0.0, 0.3))
            return True
        answer, enough = Answer(), self._draw.randrange(1, 60_000)
        while len(answer.body) < enough and answer.status in (None, 200) and await wire.read(answer):
            pass
        return answer.status == 200

    async def _to_its_end(self, wire: Wire) -> None:
        """Whoever ended its own direction only must be let go by the server."""
        with contextlib.suppress(OSError, h11.RemoteProtocolError):
            async with asyncio.timeout(PATIENCE):
                while await wire.read(Answer()):
                    pass
        wire.leave()


async def settle(found: Target) -> dict[str, int]:
    """What is held while nothing is asked for: the least that was seen in a while."""
    seen = []
    for _ in range(20):
        seen.append(await asyncio.to_thread(found.held))
        await asyncio.sleep(0.1)
    return {name: min(one[name] for one in seen) for name in seen[0]}


async def until_free(found: Target, base: dict[str, int], patience: float) -> dict[str, float | None]:
    """Seconds until each kind is back at its base; None: not within the patience."""
    began, free = perf_counter(), dict[str, float | None].fromkeys(base)
    while None in free.values() and perf_counter() - began < patience:
        now = await asyncio.to_thread(found.held)
        for name, count in now.items():
            if free[name] is None and count <= base[name] + SPARE.get(name, 0):
                free[name] = perf_counter() - began
        await asyncio.sleep(POLL_SECONDS)
    return free


async def crowd(leavers: Leavers, count: int, at_once: int, seed: int) -> None:
    """So many disconnects, each point and way alike often, in any order."""
    kinds: list[tuple[str, Leaving]] = [(point, how) for point in POINTS for how in WAYS]
    wanted = (kinds * (count // len(kinds) + 1))[:count]
    random.Random(seed).shuffle(wanted)
    room = asyncio.Semaphore(at_once)

    async def one(point: str, how: Leaving) -> None:
        async with room:
            await leavers.leave(point, how)

    await asyncio.gather(*(one(*kind) for kind in wanted))


async def measure(found: Target, args: argparse.Namespace) -> int:
    """-> the exit status."""
    slots = found.health()["slots"]
    spoken = {} if args.loose else await references(found.url, LISTENED)
    load, leavers = Load(found.url, spoken), Leavers(found.url, args.seed)
    # What is made at first use, and stays, is made before the base is taken.
    await asyncio.gather(*(ask(found.url, speech(n) | {"max_tokens": 28}) for n in range(slots)))
    base = await settle(found)
    listeners = [asyncio.create_task(load.listen(index)) for index in range(max(1, slots // 2))]
    began = perf_counter()
    await crowd(leavers, args.count, args.at_once, args.seed)
    taken = perf_counter() - began
    for task in listeners:
        task.cancel()
    await asyncio.wait(listeners)
    free = await until_free(found, base, PATIENCE)
    after = await asyncio.to_thread(found.held)
    whole = await ask(found.url, LISTENED[0])
    verdicts = load.verdicts + Counter([judge(LISTENED[0], whole, spoken.get(name_of(LISTENED[0])))])
    rows = [{"held": name, "base": base[name], "after": after[name], "free_s": rounded(free[name], 3)} for name in base]
    wrong = [
        f"{name} not as before within {args.bound:g} s: {s}" for name, s in free.items() if s is None or s > args.bound
    ]
    wrong += [f"a listener: {word}" for word in verdicts if word not in (WHOLE, REFUSED, EXPIRED)]
    print_table(rows)
    print(
        f"{args.count} disconnects in {taken:.0f} s ({leavers.refused} were refused first); listeners: {dict(verdicts)}"
    )
    print("\n".join(wrong or [f"everything was free within {args.bound:g} s"]))
    kinds: dict[str, Any] = {f"{point}, {how}": count for (point, how), count in sorted(leavers.counts.items())}
    print_document(rows, count=args.count, seconds=round(taken, 1), listeners=dict(verdicts), kinds=kinds, wrong=wrong)
    return 1 if wrong else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=12, help="clients that are about to leave")
    parser.add_argument("--bound", type=float, default=1.0, help="seconds until everything must be free")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loose", action="store_true", help="do not compare samples")
    add_target(parser)
    args = parser.parse_args(arguments)
    return on_target(args, lambda found: asyncio.run(measure(found, args)))


if __name__ == "__main__":
    sys.exit(main())
