"""What `lyre plan` says of a small case, beside what the case does: two `lyre serve` of three slots behind a balancer.

    python -m benchmarks.capacity                   about 19 minutes on an idle machine of two cores
    python -m benchmarks.capacity --duration 20     whether it works

Each server has a core of its own, as a pod has its GPU. First the curve: 1 to 3 callers kept busy on each server,
behind HAProxy, as `lyre bench` does it. Then Poisson arrivals at shares of what six streams were heard to make: behind
HAProxy, whose queue holds whoever finds no slot for up to 3 s, and behind Envoy, which chooses between two servers and
has no queue. The plan gets the curve, the lengths of the speech that the curve's callers heard, and the rate, and
nothing of the arrivals. Times in ms; off: plan over measured, less 1.
A table for people; the last line is one JSON document. Status 1 when a request failed otherwise than by a 503.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any

from api.plan.curve import Curve, read_curve
from api.plan.simulation import Group, Measured, Seen, quantile, simulate
from benchmarks.balancers import ENVIRONMENT
from benchmarks.fleet import Fleet
from benchmarks.load import Outcome, Share, take
from benchmarks.proxy import Proxy, free_port
from benchmarks.report import percentile, print_document, print_table
from benchmarks.serve import MEDIUM, SHORT, summary

SERVERS, SLOTS = 2, 3
STREAMS = SERVERS * SLOTS
ARGUMENTS = ("--max-concurrency", str(SLOTS), "--max-queue", "0", "--cpu-threads", "1", "--drain-seconds", "60")
PATIENCE = 3.0
"""`timeout queue` of haproxy.cfg."""
ARRIVALS = 60_000
CASES = (("haproxy", 0.5), ("haproxy", 0.75), ("haproxy", 1.2), ("envoy", 0.8))
"""Balancer, and arrivals as a share of the most that all slots can speak."""


def plain(url: str) -> Share:
    """Short and medium sentences in both voices, as they end by themselves.

    In no order: taken in turns they would make the load more even than so many callers do.
    """
    texts = tuple(random.Random(0).choices(SHORT + MEDIUM, k=997))
    return Share(url=url, key=None, texts=texts, voices=("tara", "leo"), index=0, of=1, begin_at=perf_counter() + 0.2)


def measured_curve(url: str, duration: float) -> tuple[Curve, Measured]:
    """A server's curve: 1 to SLOTS callers kept busy on each, for `duration` seconds, and how long their speech was."""
    rows, lengths = list[dict[str, Any]](), list[float]()
    for count in range(1, SLOTS + 1):
        share = plain(url)
        outcome = take(Share(**{**asdict(share), "concurrency": count * SERVERS, "duration": duration, "ramp": 2.0}))
        outcome.settled_from = share.begin_at + 2.0
        if outcome.errors:
            raise SystemExit(f"{count} callers: {next(iter(outcome.errors))}")
        row = asdict(summary("4 s", str(count), outcome, duration))
        rows.append({**row, "audio_per_s": row["audio_per_s"] / SERVERS})
        lengths += [one.audio for one in outcome.heard if one.whole]
    print_table(rows)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"rows": rows, "command": "benchmarks.capacity"}, file)
        file.flush()
        return read_curve(file.name, utterance=4.0), Measured(tuple(lengths))


def planned(curve: Curve, lengths: Measured, kind: str, rate: float) -> Seen:
    """What the plan's simulation says of this rate."""
    queue, patience = (10**6, PATIENCE) if kind == "haproxy" else (0, 0.0)
    group = Group(SERVERS, SLOTS, curve.factors(SLOTS), curve.firsts(SLOTS), queue, patience)
    return simulate(group, rate, lengths, ARRIVALS)


def compared(kind: str, rate: float, outcome: Outcome, plan: Seen) -> list[dict[str, Any]]:
    """A row for each figure that says something: refusals where there are some, first audio."""
    came = len(outcome.heard) + outcome.errors.total()
    firsts = [one.first for one in outcome.heard]
    figures = [("first audio mean", 1000 * sum(firsts) / len(firsts), 1000 * sum(plan.firsts) / len(plan.firsts))]
    for share in (0.5, 0.95):
        figures.append(
            (
                f"first audio p{share:.0%}"[:-1],
                1000 * (percentile(firsts, share) or 0),
                1000 * quantile(plan.firsts, share),
            )
        )
    refused = outcome.errors.total() / came
    figures.append(("rejected, %", 100 * refused, 100 * plan.rejected_share))
    about = {"balancer": kind, "arrivals_per_s": round(rate, 2), "requests": came}
    return [
        {
            **about,
            "figure": name,
            "measured": round(real, 1),
            "plan": round(said, 1),
            "off": f"{said / real - 1:+.0%}" if real else None,
        }
        for name, real, said in figures
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--duration", type=float, default=200.0, help="seconds of arrivals; half of it for a curve's point"
    )
    args = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))[:SERVERS]
    if len(cores) < SERVERS:
        raise SystemExit(f"each of {SERVERS} servers needs a core of its own; there is one")
    rows, strange = list[dict[str, Any]](), 0
    with Fleet(SERVERS, ARGUMENTS, ENVIRONMENT, cores) as fleet:
        # The shipped files name three servers: nobody answers at the third's.
        ports = [*fleet.ports, free_port()]
        with Proxy("haproxy", ports, SLOTS) as proxy:
            curve, lengths = measured_curve(proxy.url, args.duration / 2)
        most = STREAMS / curve.factors(SLOTS)[SLOTS] / lengths.mean
        for kind, share in CASES:
            rate = share * most
            with Proxy(kind, ports, SLOTS) as proxy:
                arrivals = {"rate": rate, "requests": max(8, round(rate * args.duration)), "seed": len(rows)}
                outcome = take(Share(**{**asdict(plain(proxy.url)), **arrivals}))
            strange += sum(count for error, count in outcome.errors.items() if " 503 " not in error)
            rows += compared(kind, rate, outcome, planned(curve, lengths, kind, rate))
    print_table(rows)
    print_document(rows, servers=SERVERS, slots=SLOTS, most_per_s=most, curve=[asdict(p) for p in curve.points])
    return 1 if strange else 0


if __name__ == "__main__":
    sys.exit(main())
