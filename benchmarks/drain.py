"""SIGTERM while all slots speak: whether everybody hears the end, how long that takes, and that a second one forces.

    python -m benchmarks.drain --streams 16 -- --max-concurrency 16 --drain-seconds 120

What follows `--` are flags of `lyre serve`; the servers are its own. In the first, SIGTERM comes when every stream has
been heard: all must be whole to the sample, a new request must be refused, /health/ready must say no and /health/live
yes (the engine stands still while these are asked), and the process must end with status 0. The second gets two
signals: it must leave at once, and what it cut must not look whole. Exit status 1 when one of it is not so. A table for
people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from benchmarks.judge import CUT, FAILED, GONE, REFUSED, WHOLE, judge, name_of, references, speech
from benchmarks.report import print_document, print_table
from benchmarks.server import ServerFailed
from benchmarks.target import Target, target
from benchmarks.vitals import engines
from benchmarks.wire import Answer, ask, get, until_heard

FORMS = ("pcm", "wav", "sse", "mp3")
POLL_SECONDS = 0.02
BROKEN = (CUT, FAILED, REFUSED, GONE)


def bodies(streams: int, repeat: int) -> list[dict[str, Any]]:
    """What is asked for."""
    return [speech(number, FORMS[number % len(FORMS)], repeat) for number in range(streams)]


async def drain(found: Target, asked: Sequence[dict[str, Any]], twice: bool, patience: float) -> dict[str, Any]:
    """SIGTERM, once or twice, in the middle of all streams; -> a line of the table, with `wrong` in words."""
    assert found.own is not None
    spoken = {} if twice else await references(found.url, list({name_of(body): body for body in asked}.values()))
    answers = [Answer() for _ in asked]
    streams = [asyncio.create_task(ask(found.url, *pair, patience)) for pair in zip(asked, answers, strict=True)]
    await until_heard(answers)
    began, wrong = perf_counter(), list[str]()
    if twice:
        found.own.signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        found.own.signal(signal.SIGTERM)
    else:
        # With the last word the server is gone: nobody may end before the others have been asked.
        with held(engines(found.own.pid)):
            found.own.signal(signal.SIGTERM)
            wrong += await while_draining(found.url)
    await asyncio.gather(*streams)
    status = await asyncio.to_thread(found.own.wait_end, patience)
    verdicts = [judge(body, one, spoken.get(name_of(body))) for body, one in zip(asked, answers, strict=True)]
    allowed = (WHOLE, *BROKEN) if twice else (WHOLE,)
    wrong += [
        f"a stream: {verdict} {one.error}"
        for verdict, one in zip(verdicts, answers, strict=True)
        if verdict not in allowed
    ]
    if twice and CUT not in verdicts:
        wrong.append("the second signal cut nothing: the streams were too short")
    if status != 0:
        wrong.append(f"exit status {status}")
    counts = Counter(verdicts)
    return {
        "signals": 1 + twice, "streams": len(asked), "whole": counts[WHOLE],
        "broken": sum(counts[word] for word in BROKEN), "status": status,
        "seconds": round(perf_counter() - began, 2), "wrong": wrong,
    }  # fmt: skip


@contextmanager
def held(pids: Sequence[int]) -> Iterator[None]:
    """Processes that do nothing meanwhile."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def while_draining(url: str) -> list[str]:
    """What is wrong with what the others are told meanwhile."""
    end = perf_counter() + 5.0
    while await get(url, "/health/ready") == 200 and perf_counter() < end:
        await asyncio.sleep(POLL_SECONDS)
    ready, live = await get(url, "/health/ready"), await get(url, "/health/live")
    late = speech(0)
    verdict = judge(late, await ask(url, late), None)
    wrong = [] if verdict == REFUSED else [f"a new request: {verdict}"]
    return wrong + [
        f"{path} {status}" for path, status, right in (("ready", ready, 503), ("live", live, 200)) if status != right
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3, help="times a sentence, so that it lasts")
    parser.add_argument("--patience", type=float, default=180, help="seconds that may pass until all have ended")
    parser.add_argument("flags", nargs="*", help="of lyre serve, behind --")
    args = parser.parse_args(arguments)
    rows = []
    for twice in (False, True):
        try:
            with target(args.flags) as found:
                rows.append(asyncio.run(drain(found, bodies(args.streams, args.repeat), twice, args.patience)))
        except ServerFailed as error:
            print(f"the server did not start: {error}", file=sys.stderr)
            return 1
    wrong = [line for row in rows for line in row.pop("wrong")]
    print_table(rows)
    print("\n".join(sorted(set(wrong)) or ["everybody heard the end; the second signal did not wait for it"]))
    print_document(rows, wrong=wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
