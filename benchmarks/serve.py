"""Measures a running server over HTTP as a client hears it: time to first audio, real-time factor, underruns.

    python -m benchmarks.serve --concurrency 1 16                                short, medium and long texts
    python -m benchmarks.serve --capacity --concurrency 16 64 128 256 320 400    how many streams play in real time
    python -m benchmarks.serve --rate 20 --duration 30                           Poisson arrivals, 20 a second

A stream is played from its first bytes on; it underruns when the player needs a sample that has not come. First audible
is when the first sample above 1 % of full scale comes. A capacity row keeps its streams busy with utterances of
`--seconds` for `--duration` seconds after the ramp, and the rows end when more than 1 % of the streams underran.
Percentiles are nearest ranks. Clients run in `--processes` of their own; `lag_p99` is how late their own loops were.
Random weights seldom end their speech: where a short text is spoken much too long, lengths are asked for by max_tokens.
A table for people; the last line is one JSON document. An error or an answer without audio ends with status 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

import httpx

from benchmarks.listening import BYTES_PER_SECOND
from benchmarks.load import Outcome, Share, ready, take
from benchmarks.report import cores, percentile, print_document, print_table, rounded

SHORT = ("Yes, of course.", "Hello there!", "One moment, please.")
MEDIUM = (
    "Your order has been shipped and should arrive on Tuesday afternoon.",
    "Please leave your coat at the door, and come in out of the rain.",
    "I am sorry, I did not catch that. Could you say it once more?",
)
LONG = (
    "Thank you for waiting. I have looked into your account, and I can see that the payment went through this morning. "
    "You should receive a confirmation by mail within the next hour. If it does not arrive, please call us again.",
)
TEXTS = {"short": SHORT, "medium": MEDIUM, "long": LONG}
PACE = 15.0
"""Characters of English that a voice speaks in a second."""
FASTEST = 25.0
"""Characters a second: a text of this many a second outlasts any utterance that max_tokens ends."""
MOST_UNDERRUNNING = 0.01
IDLE_SECONDS = 10.0
LEAST_REQUESTS, REQUESTS_A_STREAM = 24, 6


@dataclass(frozen=True)
class Row:
    """Many requests of one kind. Times in ms; `requests` began after the ramp, `streams` were heard at all."""

    text: str
    load: str
    requests: int
    errors: int
    ttfa_p50: float | None
    ttfa_p95: float | None
    ttfa_p99: float | None
    audible_p50: float | None
    rtf_p50: float | None
    rtf_p95: float | None
    rtf_max: float | None
    streams: int
    underruns: int
    underrunning: float | None
    """The share of the streams that had to wait at all."""
    worst_wait: float | None
    audio_per_s: float | None
    """Seconds of audio that all streams together got in a second."""
    lag_p99: float | None


class Crowd:
    """Processes that take shares of a load."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        # A pool of one each: every share has its own process, and none waits for another's start.
        self._pools = [ProcessPoolExecutor(1, mp_context=context) for _ in range(processes)]
        for future in [pool.submit(ready) for pool in self._pools]:
            future.result()

    def run(self, share: Share) -> Outcome:
        """All shares of a load at the same time, as one outcome."""
        # No more processes than streams: one without a stream would leave its requests undone.
        pools = self._pools[: share.concurrency] if share.rate is None else self._pools
        share = replace(share, of=len(pools), begin_at=perf_counter() + 0.2)
        futures = [pool.submit(take, replace(share, index=i)) for i, pool in enumerate(pools)]
        whole = Outcome()
        for outcome in [future.result() for future in futures]:
            whole.heard += outcome.heard
            whole.errors += outcome.errors
            whole.received += outcome.received
            whole.lags += outcome.lags
        if not share.requests:
            # Those of the ramp met fewer others; they count as players, not as first sounds.
            whole.settled_from = share.begin_at + share.ramp
        return whole

    def close(self) -> None:
        """Ends the processes."""
        for pool in self._pools:
            pool.shutdown()


def summary(text: str, load: str, outcome: Outcome, duration: float | None) -> Row:
    """`duration`: of the window that `received` was counted in; None: from the first request to the last byte."""
    heard = outcome.heard
    settled = [one for one in heard if one.began >= outcome.settled_from]
    # The first utterances of a capacity row are shortened: their first sound is a larger part of them.
    rtfs = [one.rtf for one in settled if one.whole] or [one.rtf for one in heard if one.whole]
    late = [one for one in heard if one.underruns]
    return Row(
        text=text,
        load=load,
        requests=len(settled),
        errors=outcome.errors.total(),
        **{f"ttfa_p{p}": _ms(percentile([one.first for one in settled], p / 100)) for p in (50, 95, 99)},
        audible_p50=_ms(percentile([one.audible for one in settled if one.audible is not None], 0.5)),
        rtf_p50=rounded(percentile(rtfs, 0.5), 3),
        rtf_p95=rounded(percentile(rtfs, 0.95), 3),
        rtf_max=rounded(max(rtfs, default=None), 3),
        streams=len(heard),
        underruns=sum(one.underruns for one in heard),
        underrunning=round(len(late) / len(heard), 4) if heard else None,
        worst_wait=_ms(max((one.waited for one in heard), default=None)),
        audio_per_s=rounded(_audio_per_second(outcome, duration), 1),
        lag_p99=_ms(percentile(outcome.lags, 0.99)),
    )


def _audio_per_second(outcome: Outcome, duration: float | None) -> float | None:
    if duration:
        return outcome.received / BYTES_PER_SECOND / duration
    if not outcome.heard:
        return None
    begin = min(one.began for one in outcome.heard)
    return sum(one.audio for one in outcome.heard) / max(one.began + one.last - begin for one in outcome.heard)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)


def long_enough(seconds: float) -> str:
    """A text that takes longer to say."""
    return " ".join(LONG * (1 + int(FASTEST * seconds) // len(LONG[0])))


def ends_by_itself(share: Share) -> bool:
    """Whether a short text is spoken at about the pace of speech: random weights speak until they are stopped."""
    probe = take(replace(share, texts=SHORT[:1], requests=1, index=0, of=1, begin_at=perf_counter()))
    if probe.errors:
        raise SystemExit(f"no speech: {next(iter(probe.errors))}")
    return probe.heard[0].audio < 4 * len(SHORT[0]) / PACE


def about_server(url: str, key: str | None) -> dict[str, Any]:
    """What the server says of itself; SystemExit when it is not ready."""
    try:
        with httpx.Client(
            base_url=url, timeout=20, headers={"authorization": f"Bearer {key}"} if key else {}
        ) as client:
            health = client.get("/health/ready")
            return {**client.get("/v1").json(), **health.raise_for_status().json()}
    except (httpx.HTTPError, ValueError) as error:
        raise SystemExit(f"{url} is not ready: {error}") from None


def until_idle(url: str) -> None:
    """Waits until the streams that the last row hung up have left the server; somebody else's may stay."""
    end = perf_counter() + IDLE_SECONDS
    while perf_counter() < end and httpx.get(url + "/health", timeout=20).json().get("running"):
        time.sleep(0.1)


def shares(args: argparse.Namespace, plain: Share) -> list[tuple[str, str, Share]]:
    """The rows to be measured: text, load, and how."""
    if args.rate:
        loads = [(f"{rate:g}/s", replace(plain, rate=rate)) for rate in args.rate]
    else:
        loads = [(str(count), _closed(args, plain, count)) for count in args.concurrency]
    if args.seconds:
        fixed = {"texts": (long_enough(args.seconds),), "seconds": args.seconds}
        return [(f"{args.seconds:g} s", name, replace(load, **fixed)) for name, load in loads]
    if args.library:
        loads.insert(0, ("1, httpx", replace(_closed(args, plain, 1), library=True)))
    return [(text, name, replace(load, texts=TEXTS[text])) for name, load in loads for text in args.texts]


def _closed(args: argparse.Namespace, plain: Share, streams: int) -> Share:
    """Streams that are kept busy. They begin within much less than they last, or fewer than that would run at once."""
    ramp = max(2.0, streams / 64) if args.duration else 0.25
    requests = None if args.duration else args.requests or max(LEAST_REQUESTS, REQUESTS_A_STREAM * streams)
    return replace(plain, concurrency=streams, requests=requests, ramp=ramp if args.ramp is None else args.ramp)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", help="an API key of the server")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4], help="streams that are kept busy at once")
    parser.add_argument("--rate", type=float, nargs="+", help="arrivals a second instead, whatever still runs")
    parser.add_argument("--requests", type=int, help="of each row [default: 6 for each stream, at least 24]")
    parser.add_argument("--duration", type=float, help="seconds of each row instead, after the ramp")
    parser.add_argument("--ramp", type=float, help="seconds in which they begin [default: 0.25; with a duration, >= 2]")
    parser.add_argument("--capacity", action="store_true", help="--seconds 10 --duration 20; ends at 1 %% underrunning")
    parser.add_argument("--texts", nargs="+", choices=list(TEXTS), default=list(TEXTS))
    parser.add_argument("--seconds", type=float, help="utterances of this length instead, by max_tokens")
    parser.add_argument("--voices", nargs="+", default=["alloy", "echo"], help="OpenAI's names fit any model")
    parser.add_argument("--library", action="store_true", help="a single stream through httpx, too")
    parser.add_argument("--processes", type=int, help="of clients [default: one for each four cores, at most 8]")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds that a request may take")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    if args.capacity:
        args.seconds, args.duration = args.seconds or 10.0, args.duration or 20.0
    if args.duration and args.requests:
        parser.error("--requests or --duration, not both")
    if args.library and (args.rate or args.duration or args.seconds):
        parser.error("--library is for the table of texts and --requests")
    if args.rate and args.capacity:
        parser.error("--capacity keeps streams busy; --rate lets them come")
    if args.rate and not args.duration:
        args.requests = args.requests or LEAST_REQUESTS
    return args


def measure(args: argparse.Namespace, plain: Share) -> tuple[list[Row], Counter[str]]:
    """All rows, printed as they come."""
    most = 1 if args.rate else max(args.concurrency)
    crowd = Crowd(args.processes or min(8, max(1, cores() // 4), max(1, most)))
    rows, errors = list[Row](), Counter[str]()
    try:
        for text, load, share in shares(args, plain):
            until_idle(args.url)
            outcome = crowd.run(share)
            rows.append(summary(text, load, outcome, args.duration))
            errors += outcome.errors
            print(f"{text}, {load}: {rows[-1].streams} streams, {rows[-1].errors} errors", file=sys.stderr, flush=True)
            if args.capacity and (rows[-1].errors or (rows[-1].underrunning or 0) > MOST_UNDERRUNNING):
                break
    finally:
        crowd.close()
    return rows, errors


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status."""
    args = parse(arguments)
    server = about_server(args.url, args.key)
    plain = Share(
        url=args.url, key=args.key, texts=SHORT, voices=tuple(args.voices), index=0, of=1, begin_at=0.0,
        requests=args.requests, duration=args.duration or 0.0, ramp=args.ramp or 2.0, seed=args.seed,
        patience=args.patience,
    )  # fmt: skip
    ends = ends_by_itself(plain)
    rows, errors = measure(args, plain if ends else replace(plain, pace=PACE))
    table = [asdict(row) for row in rows]
    print("ttfa, audible, worst_wait and lag in ms; rtf: time over speech; underrunning: the share of the streams")
    print_table(table)
    for error, count in errors.most_common(5):
        print(f"{count} x {error}", file=sys.stderr)
    print_document(table, server=server, seconds=args.seconds, lengths="natural" if ends else "by max_tokens")
    return 1 if errors or not all(row.streams for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
