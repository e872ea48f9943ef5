"""Several times more requests than a server can speak: how quick it refuses, whether what it takes is whole, and after.

    python -m benchmarks.overload --seconds 60 --factor 4 -- --max-concurrency 4 --max-queue 4

What follows `--` are flags of `lyre serve`; `--url` takes a server that runs. Let the slots be as many as the machine
speaks in real time: what is taken then ends soon, and the queue is short. First the time to first audio of single
requests is measured, then what all slots together speak in a second; requests then come, evenly at random, `--factor`
times as often. Every answer is judged: whole to the sample (against the same speech spoken alone), refused with a
Retry-After and OpenAI's envelope, expired in the queue. Single requests then find out when the time to first audio is
as before. In the end some of OpenAI's own clients try, with their own retries, against a short overload. On a GPU,
`--batch-invariant` makes speech comparable; without it use `--loose`. Exit status 1 when a bar is missed. A table for
people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from benchmarks.judge import CUT, EXPIRED, FAILED, GONE, REFUSED, WHOLE, judge, name_of, references, speech
from benchmarks.report import percentile, print_document, print_table, rounded
from benchmarks.target import Target, add_target, on_target
from benchmarks.wire import Answer, ask

FORMS = ("pcm", "wav", "mp3", "sse", "opus", "flac")
TOKENS = 210
"""Of each request, 2.5 s at most: what runs when the overload ends is then soon over."""
CASES = [speech(number, form) | {"max_tokens": TOKENS} for form in FORMS for number in range(2)]
REFUSAL_SECONDS = 0.1
"""The bar for 95 % of the refusals."""
RECOVERY_SECONDS = 5.0
PROBE_SECONDS = 0.1
PROBE_TOKENS = 28
WATCH_SECONDS = 12.0
WORDS = (WHOLE, REFUSED, EXPIRED, CUT, FAILED, GONE)
GOOD = (WHOLE, REFUSED, EXPIRED)
OPENAI_CLIENTS = 4
OPENAI_SECONDS = 10.0  # of an overload of their own: their last tries come when it is over, and are load themselves
OPENAI_RETRIES = 8


@dataclass
class Crowd:
    """What came of many requests."""

    answers: list[tuple[dict[str, Any], Answer]] = field(default_factory=list)

    async def ask(self, url: str, number: int) -> Answer:
        """One more."""
        body = CASES[number % len(CASES)]
        self.answers.append((body, await ask(url, body)))
        return self.answers[-1][1]

    def judged(self, spoken: dict[str, bytes] | None) -> list[tuple[str, Answer]]:
        """Each answer with its verdict."""
        known = spoken or {}
        return [(judge(body, answer, known.get(name_of(body))), answer) for body, answer in self.answers]


@dataclass(frozen=True)
class Step:
    """A request after the overload: seconds since its end, and to the first audio; None: refused."""

    since: float
    first: float | None


async def base_times(url: str, count: int) -> list[float]:
    """Times to first audio of single requests, one after another."""
    times = []
    for number in range(count):
        answer = await ask(url, speech(number))
        if answer.first is None or not answer.clean:
            raise RuntimeError(f"a single request failed: {answer.status} {answer.error}")
        times.append(answer.first)
    return times


async def capacity(url: str, slots: int, seconds: float) -> tuple[float, Crowd]:
    """Requests that all slots together end in a second."""
    crowd, end = Crowd(), perf_counter() + seconds
    began = perf_counter()

    async def client(index: int) -> None:
        number = index
        while perf_counter() < end:
            await crowd.ask(url, number)
            number += slots

    await asyncio.gather(*(client(index) for index in range(slots)))
    return len(crowd.answers) / (perf_counter() - began), crowd


async def overload(
    url: str, rate: float, seconds: float, seed: int = 0, sdk: bool = True
) -> tuple[Crowd, list[Step], list[str]]:
    """Requests at random moments, `rate` a second, and what follows.

    -> them, the times to first audio afterwards, and what became of OpenAI's clients, if there are any.
    """
    crowd, chance, tasks = Crowd(), random.Random(seed), list[asyncio.Task[Answer]]()
    due = begin = perf_counter()
    clients = asyncio.create_task(openai_clients(url, seconds - 5.0)) if sdk else None
    while (due := due + chance.expovariate(rate)) < begin + seconds:
        await asyncio.sleep(max(0.0, due - perf_counter()))
        tasks.append(asyncio.create_task(crowd.ask(url, len(tasks))))
    after = await afterwards(url, perf_counter())
    await asyncio.gather(*tasks)
    return crowd, after, await clients if clients else []


async def afterwards(url: str, end: float) -> list[Step]:
    """Single requests, one after another, each with the seconds since the overload's end and those to its audio."""
    steps: list[Step] = []
    while perf_counter() < end + WATCH_SECONDS:
        answer = await ask(url, speech(len(steps)) | {"max_tokens": PROBE_TOKENS})
        steps.append(Step(answer.began - end, answer.first if answer.status == 200 else None))
        await asyncio.sleep(PROBE_SECONDS)
    return steps


def recovery(steps: Sequence[Step], bound: float) -> float | None:
    """Seconds after which every first audio came within the bound; None: never."""
    late = [index for index, step in enumerate(steps) if step.first is None or step.first > bound]
    if not late:
        return 0.0
    return steps[late[-1] + 1].since if late[-1] + 1 < len(steps) else None


async def openai_clients(url: str, delay: float) -> list[str]:
    """OpenAI's own, with its own retries: what each got, in a word."""
    if importlib.util.find_spec("openai") is None:
        return []
    from openai import AsyncOpenAI, OpenAIError

    await asyncio.sleep(max(0.0, delay))

    async def one(number: int) -> str:
        body = speech(number, "wav")
        more = {"seed": body.pop("seed"), "max_tokens": TOKENS}
        try:
            async with AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=OPENAI_RETRIES) as client:
                answer = await client.audio.speech.create(**body, extra_body=more)
                return WHOLE if len(answer.content) > 10_000 else f"{len(answer.content)} bytes"
        except OpenAIError as error:
            return f"{type(error).__name__}: {error}"

    return list(await asyncio.gather(*(one(number) for number in range(OPENAI_CLIENTS))))


def refusal_row(judged: Sequence[tuple[str, Answer]]) -> dict[str, Any]:
    """How long those waited who were refused, and who expired."""
    times = {word: [a.ended or 0.0 for found, a in judged if found == word] for word in (REFUSED, EXPIRED)}
    return {
        "refused_p50_ms": _ms(percentile(times[REFUSED], 0.5)),
        "refused_p95_ms": _ms(percentile(times[REFUSED], 0.95)),
        "refused_max_ms": _ms(max(times[REFUSED], default=None)),
        "expired_p50_s": rounded(percentile(times[EXPIRED], 0.5), 2),
    }


def row(phase: str, seconds: float, judged: Sequence[tuple[str, Answer]]) -> dict[str, Any]:
    """A line of the table."""
    counts = Counter(verdict if verdict in WORDS else "wrong" for verdict, _ in judged)
    first = [answer.first for verdict, answer in judged if verdict == WHOLE and answer.first is not None]
    return {
        "phase": phase, "requests": len(judged), "per_s": round(len(judged) / seconds, 2),
        **{word: counts[word] for word in WORDS}, "wrong": counts["wrong"],
        "ttfa_p50_ms": _ms(percentile(first, 0.5)), "ttfa_p95_ms": _ms(percentile(first, 0.95)),
        **refusal_row(judged),
    }  # fmt: skip


def misses(line: dict[str, Any], judged: Sequence[tuple[str, Answer]], back: float | None, sdk: list[str]) -> list[str]:
    """Every bar that was missed, in words."""
    wrong = sorted({f"{verdict} {answer.error}".strip() for verdict, answer in judged if verdict not in GOOD})
    if line["refused"] == 0:
        wrong.append("nothing was refused: that was no overload")
    elif line["refused_p95_ms"] > 1000 * REFUSAL_SECONDS:
        wrong.append(f"95 % of the refusals took up to {line['refused_p95_ms']} ms")
    if back is None or back > RECOVERY_SECONDS:
        wrong.append(f"the time to first audio is not as before {RECOVERY_SECONDS:g} s after the overload: {back}")
    return wrong + [f"OpenAI's client: {one}" for one in sdk if one != WHOLE]


async def measure(found: Target, args: argparse.Namespace) -> int:
    """All phases; -> the exit status."""
    spoken = None if args.loose else await references(found.url, CASES)
    base = await base_times(found.url, args.base)
    most = percentile(base, 0.95) or 0.0
    slots = found.health()["slots"]
    rate, full = await capacity(found.url, slots, args.capacity)
    print(f"{slots} slots end {rate:.2f} requests a second", file=sys.stderr, flush=True)
    crowd, after, _ = await overload(found.url, args.factor * rate, args.seconds, sdk=False)
    late, _, sdk = await overload(found.url, args.factor * rate, OPENAI_SECONDS, seed=1)
    bound = max(1.5 * most, most + 0.05)
    back = recovery(after, bound)
    judged, at_capacity = crowd.judged(spoken), full.judged(spoken)
    rows = [row("all slots", args.capacity, at_capacity), row(f"{args.factor:g} x", args.seconds, judged)]
    others = [*(one for one in at_capacity if one[0] != WHOLE), *late.judged(spoken)]
    wrong = misses(rows[1], [*judged, *others], back, sdk)
    print_table(rows)
    print(f"alone: first audio p50 {_ms(percentile(base, 0.5))} ms, p95 {_ms(most)} ms")
    print("afterwards (s: ms): " + ", ".join(f"{step.since:.2f}: {_ms(step.first) or 'refused'}" for step in after))
    print(f"within {_ms(bound)} ms again after {'-' if back is None else f'{back:.2f}'} s; OpenAI's clients: {sdk}")
    print("\n".join(wrong or ["every bar is met"]))
    print_document(
        rows, slots=slots, rate=round(rate, 3), base_p50_ms=_ms(percentile(base, 0.5)), base_p95_ms=_ms(most),
        bound_ms=_ms(bound), recovery_s=rounded(back, 2), openai=sdk, missed=wrong,
        afterwards=[[round(step.since, 2), _ms(step.first)] for step in after],
    )  # fmt: skip
    return 1 if wrong else 0


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of overload")
    parser.add_argument("--factor", type=float, default=4, help="times what the server can speak")
    parser.add_argument("--capacity", type=float, default=15, help="seconds in which that is measured")
    parser.add_argument("--base", type=int, default=20, help="single requests")
    parser.add_argument("--loose", action="store_true", help="do not compare samples")
    add_target(parser)
    args = parser.parse_args(arguments)
    return on_target(args, lambda found: asyncio.run(measure(found, args)))


if __name__ == "__main__":
    sys.exit(main())
