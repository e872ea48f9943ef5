"""What listeners and callers get when an engine process dies, hangs or loses its GPU while all its slots speak.

    python -m benchmarks.outage --faults kill hang cuda -- --max-concurrency 16

What follows `--` are flags of `lyre serve`; the server is always one of its own. For each fault all slots speak, in
several formats; once every listener has heard something the engine process is killed (kill), stopped (hang: SIGSTOP)
or its next step fails as it does on a GPU whose context is lost (cuda). Every stream must be whole or visibly broken,
and what came of it must be the beginning of the speech. A caller tries at short intervals, and is served again without
a restart of the server: `outage_s` is from the fault to the first audio of the first request that is served,
`noticed_s` to the first broken stream, `unready_s` for how long /health/ready said so, `not_live` how often
/health/live did. What is spoken afterwards must be the same as before. Exit status 1 when one of it is not so. A table
for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import httpx

from benchmarks.judge import CUT, EXPIRED, FAILED, GONE, REFUSED, WHOLE, judge, name_of, references, speech
from benchmarks.probed import probe
from benchmarks.report import print_document, print_table, rounded
from benchmarks.target import Target, add_target, on_target
from benchmarks.vitals import engines
from benchmarks.wire import Answer, ask, until_heard

FAULTS = ("kill", "hang", "cuda")
FORMS = ("pcm", "wav", "sse", "mp3")
REPEAT = 4  # texts that outlast the fault
POLL_SECONDS = 0.05
CALL = speech(0) | {"max_tokens": 28}
WORDS = (WHOLE, CUT, FAILED, REFUSED, EXPIRED, GONE)


@dataclass
class Watch:
    """What callers saw from the fault on. Moments in seconds since then."""

    began: float
    ready: list[tuple[float, int]] = field(default_factory=list)
    live: list[int] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    back: float | None = None

    @property
    def unready(self) -> float:
        """Seconds for which it was said that nothing is taken."""
        bad = [moment for moment, status in self.ready if status != 200]
        return bad[-1] - bad[0] + POLL_SECONDS if bad else 0.0

    async def health(self, url: str) -> None:
        """Until cancelled."""
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            while True:
                moment = perf_counter() - self.began
                self.ready.append((moment, (await client.get("/health/ready")).status_code))
                self.live.append((await client.get("/health/live")).status_code)
                await asyncio.sleep(POLL_SECONDS)

    async def call(self, url: str, expected: bytes, patience: float) -> None:
        """Until one call is whole."""
        while self.back is None and perf_counter() - self.began < patience:
            answer = await ask(url, CALL, patience=patience)
            self.calls.append(judge(CALL, answer, expected))
            if self.calls[-1] == WHOLE and answer.first is not None:
                self.back = answer.began + answer.first - self.began
            else:
                await asyncio.sleep(POLL_SECONDS)


@dataclass
class Outage:
    """One fault: the streams that it met, with their verdicts, and what callers saw."""

    fault: str
    streams: list[tuple[str, Answer]]
    watch: Watch

    @property
    def row(self) -> dict[str, Any]:
        """A line of the table."""
        counts = Counter(verdict if verdict in WORDS else "wrong" for verdict, _ in self.streams)
        ends = [answer.began + (answer.ended or 0.0) - self.watch.began for word, answer in self.streams if word == CUT]
        return {
            "fault": self.fault, "streams": len(self.streams), **{word: counts[word] for word in WORDS},
            "wrong": counts["wrong"], "noticed_s": rounded(min(ends, default=None), 2),
            "outage_s": rounded(self.watch.back, 2), "unready_s": rounded(self.watch.unready, 2),
            "not_live": sum(status != 200 for status in self.watch.live), "calls": len(self.watch.calls),
        }  # fmt: skip

    @property
    def wrong(self) -> list[str]:
        """What must not be, in words."""
        found = [f"{self.fault}: {verdict}" for verdict, _ in self.streams if verdict not in WORDS]
        found += [f"{self.fault}: a caller got {word}" for word in self.watch.calls if word not in WORDS]
        if self.watch.back is None:
            found.append(f"{self.fault}: never served again")
        if not any(word == CUT for word, _ in self.streams):
            found.append(f"{self.fault}: no stream was met by it")
        return sorted(set(found))


def strike(found: Target, fault: str) -> None:
    """The fault, now, in every engine process."""
    assert found.pid is not None
    for pid in engines(found.pid):
        if fault == "cuda":
            assert found.probes is not None
            probe(found.probes, pid, "fault")
        else:
            os.kill(pid, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)


async def outage(found: Target, fault: str, streams: int, spoken: dict[str, bytes], patience: float) -> Outage:
    """One fault under so many streams, until the server speaks again."""
    bodies = [speech(number, FORMS[number % len(FORMS)], REPEAT) for number in range(streams)]
    answers = [Answer() for _ in bodies]
    asked = [asyncio.create_task(ask(found.url, *pair, patience)) for pair in zip(bodies, answers, strict=True)]
    # No word of the fault before all of them have something to lose.
    await until_heard(answers)
    await asyncio.to_thread(strike, found, fault)
    watch = Watch(perf_counter())
    health = asyncio.create_task(watch.health(found.url))
    await watch.call(found.url, spoken[name_of(CALL)], patience)
    await asyncio.gather(*asked)
    health.cancel()
    verdicts = [judge(body, answer, spoken.get(name_of(body))) for body, answer in zip(bodies, answers, strict=True)]
    return Outage(fault, list(zip(verdicts, answers, strict=True)), watch)


async def measure(found: Target, args: argparse.Namespace) -> int:
    """All faults; -> the exit status."""
    streams = args.streams or found.health()["slots"]
    bodies = {name_of(body): body for n in range(streams) for body in [speech(n, FORMS[n % len(FORMS)], REPEAT)]}
    spoken = {} if args.loose else await references(found.url, list(bodies.values()))
    spoken |= await references(found.url, [CALL])
    seen = []
    for fault in args.faults:
        seen.append(await outage(found, fault, streams, spoken, args.patience))
        print(f"{fault}: {seen[-1].row}", file=sys.stderr, flush=True)
        # A process that has lived for a while begins with a clean slate.
        await asyncio.sleep(args.rest)
    wrong = [line for one in seen for line in one.wrong]
    print_table([one.row for one in seen])
    print("\n".join(wrong or ["no answer ended cleanly that was cut, and the server came back each time"]))
    print_document([one.row for one in seen], streams=streams, wrong=wrong)
    return 1 if wrong else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--streams", type=int, help="when it strikes; as many as there are slots")
    parser.add_argument("--patience", type=float, default=180, help="seconds that the server may take to come back")
    parser.add_argument("--rest", type=float, default=2, help="seconds between two faults")
    parser.add_argument("--loose", action="store_true", help="do not compare samples")
    add_target(parser, own=True)
    args = parser.parse_args(arguments)
    return on_target(args, lambda found: asyncio.run(measure(found, args)))


if __name__ == "__main__":
    sys.exit(main())
