"""One process' share of the load: closed loops of streams, or Poisson arrivals, begun a little apart."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

try:
    from uvloop import new_event_loop
except ImportError:
    # It is not there for every system; asyncio's own is slower.
    new_event_loop = asyncio.new_event_loop

from benchmarks.listening import AnswerError, Heard, LibraryServer, Server, Window
from engine.prompt import FRAME_TOKENS
from engine.windows import SAMPLES_PER_FRAME

RATE = 24_000
TICK_SECONDS = 0.02


@dataclass(frozen=True)
class Share:
    """What one of `of` processes does. Workers and requests are dealt out in turn, so `index` + n * `of` are its own.

    All begin within `ramp` seconds of `begin_at` (monotonic), evenly. Ends after `requests` of all processes or, when
    that is None, after `duration` seconds beyond the ramp; what still speaks then is not heard to its end. With both,
    only bytes are counted by the duration.
    `rate`: arrivals a second of all processes, however many streams that makes; None: `concurrency` closed loops.
    `seconds`: how long each utterance is made, by max_tokens; `pace`: characters a second, where speech does not end by
    itself; None: as it ends.
    """

    url: str
    key: str | None
    texts: tuple[str, ...]
    voices: tuple[str, ...]
    index: int
    of: int
    begin_at: float
    concurrency: int = 1
    rate: float | None = None
    requests: int | None = None
    duration: float = 0.0
    ramp: float = 0.0
    seconds: float | None = None
    pace: float | None = None
    seed: int = 0
    patience: float = 120.0
    library: bool = False
    """Through httpx instead of bare sockets."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request."""


@dataclass
class Outcome:
    """What a share heard. `received`: bytes in the window. `lags`: by how many seconds our own loop was late.

    Requests that began before `settled_from` (monotonic) met fewer streams than the row is about.
    """

    heard: list[Heard] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    received: int = 0
    lags: list[float] = field(default_factory=list)
    settled_from: float = 0.0


def body_of(share: Share, number: int, first_part: float = 1.0) -> dict[str, Any]:
    """Request `number`. `first_part` shortens it: streams that begin together should not end together."""
    text = share.texts[number % len(share.texts)]
    voice = share.voices[number % len(share.voices)]
    body: dict[str, Any] = {"input": text, "voice": voice, "seed": share.seed + number, **share.more}
    seconds = share.seconds or (len(text) / share.pace if share.pace else None)
    if seconds is not None:
        frames = max(1, round(first_part * seconds * RATE / SAMPLES_PER_FRAME))
        body["max_tokens"] = frames * FRAME_TOKENS
    return body


def take(share: Share) -> Outcome:
    """Runs a share in an event loop of its own."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_take(share))


def ready() -> bool:
    """Something to call in a new process: it answers when its imports are done."""
    return True


async def _take(share: Share) -> Outcome:
    outcome = Outcome()
    begin = share.begin_at + share.ramp
    window = Window(begin, begin + share.duration if share.duration else float("inf"), last=not share.requests)
    library = share.library
    server = LibraryServer(share.url, share.key) if library else Server(share.url, share.key, window, share.patience)
    watch = asyncio.create_task(_watch(outcome.lags))
    try:
        await (_closed(share, server, window, outcome) if share.rate is None else _open(share, server, window, outcome))
    finally:
        watch.cancel()
        await server.close()
    outcome.received = window.received
    return outcome


async def _closed(share: Share, server: Server | LibraryServer, window: Window, outcome: Outcome) -> None:
    numbers: Iterator[int] = iter(range(share.index, share.requests or 10**9, share.of))

    async def worker(place: int) -> None:
        await _until(share.begin_at + share.ramp * place / share.concurrency)
        part = 1.0 if share.requests is not None else (place + 1) / share.concurrency
        for number in numbers:
            if window.over:
                return
            await _ask(server, body_of(share, number, part), perf_counter(), outcome)
            part = 1.0

    await asyncio.gather(*(worker(place) for place in range(share.index, share.concurrency, share.of)))


async def _open(share: Share, server: Server | LibraryServer, window: Window, outcome: Outcome) -> None:
    """Poisson arrivals; those of several processes together are Poisson arrivals, too. A request is due when it is."""
    assert share.rate is not None
    chance = random.Random(share.seed * 1000 + share.index)
    due, running = share.begin_at, set[asyncio.Task[None]]()
    for number in range(share.index, share.requests or 10**9, share.of):
        due += chance.expovariate(share.rate / share.of)
        if due > window.end:
            break
        await _until(due)
        task = asyncio.create_task(_ask(server, body_of(share, number), due, outcome))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)


async def _ask(server: Server | LibraryServer, body: dict[str, Any], due: float, outcome: Outcome) -> None:
    try:
        outcome.heard.append(await server.speak(body, due))
    except AnswerError as error:
        outcome.errors[str(error)] += 1
        # A server that refuses is not asked again at once: a refusal is quick, and would be all that is measured.
        await asyncio.sleep(0.5)


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - perf_counter()))


async def _watch(lags: list[float]) -> None:
    while True:
        due = perf_counter() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        lags.append(perf_counter() - due)
