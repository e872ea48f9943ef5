"""`lyre plan`: callers and promises in, a table for people or one JSON document out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

import rich_click as click
from rich import box
from rich.console import Console
from rich.table import Table

from api.plan.curve import Curve, CurveError, read_curve
from api.plan.sizing import CannotPlan, Demand, Sized, Supply, size

FAR = 2.0
"""From so many times longer or shorter requests on it is said that a curve's rows are of others."""


class _Finite(click.FloatRange):
    """Neither nan nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


_POSITIVE = _Finite(min=0, max=1e9, min_open=True)
_SHARE = _Finite(0, 1)
_NOT_NEGATIVE = _Finite(0)


@click.command("plan")
@click.option(
    "--streams", type=click.IntRange(1, 10**9), multiple=True, help="callers at once; may be given several times"
)
@click.option("--calls-per-minute", type=_POSITIVE, help="instead of --streams: calls that begin in a minute, ...")
@click.option("--call-minutes", type=_POSITIVE, default=3.0, show_default=True, help="... and how long they last")
@click.option("--listening", type=_Finite(0, 1, min_open=True), default=1.0, show_default=True,
              help="share of its call in which a caller is spoken to; on the phone 0.3 to 0.5")  # fmt: skip
@click.option(
    "--ttfa", type=_POSITIVE, default=200.0, show_default=True, help="ms to the first audio, 95 % of requests"
)
@click.option("--rejected", type=_SHARE, default=0.001, show_default=True, help="share of requests that may get a 503")
@click.option("--utterance", type=_POSITIVE, default=5.0, show_default=True, help="mean seconds of speech in a request")
@click.option("--curve", default="h200", show_default=True, help="a shipped curve, or a file of `lyre bench --out`")
@click.option("--slots", type=click.IntRange(1), help="streams at once of a pod [default: most that play in real time]")
@click.option("--queue", type=click.IntRange(0), help="queue places of a pod [default: a quarter of its slots]")
@click.option("--patience", type=_NOT_NEGATIVE, default=3.0, show_default=True, help="seconds to wait for a slot")
@click.option("--buffer", type=_NOT_NEGATIVE, default=20.0, show_default=True,
              help="ms of speech that players hold back, which covers shorter waits")  # fmt: skip
@click.option(
    "--cell", type=click.IntRange(2, 64), default=16, show_default=True, help="pods behind one balancer, at most"
)
@click.option("--spare", type=click.IntRange(0), default=1, show_default=True, help="pods a cell may lose or update")
@click.option(
    "--gpus-a-pod", type=click.IntRange(1), default=1, show_default=True, help="that the curve was measured on"
)
@click.option("--gpu-hour-price", type=_NOT_NEGATIVE, help="in any currency: tells the price of an hour of audio")
@click.option("--seed", type=int, default=0, show_default=True, help="of the simulation")
@click.option("--json", "as_json", is_flag=True, help="one JSON document instead of a table")
def plan_command(streams: Sequence[int], calls_per_minute: float | None, as_json: bool, **given: Any) -> None:
    """How many pods and GPUs callers need: from a measured curve, by simulating their arrivals.

    Each row keeps both promises with its spare pods lost. docs/capacity.md has examples and what is assumed.
    """
    if bool(streams) == (calls_per_minute is not None):
        raise click.UsageError("say --streams, or --calls-per-minute")
    if given["spare"] >= given["cell"]:
        raise click.UsageError("--spare must be less than --cell")
    callers = streams or (calls_per_minute * given["call_minutes"],)  # pyright: ignore[reportOptionalOperand]
    try:
        curve = read_curve(given["curve"], given["utterance"])
        supply = _supply(curve, given)
        sized = [size(curve, _demand(count, given), supply) for count in callers]
    except (CurveError, CannotPlan) as error:
        raise click.UsageError(str(error)) from None
    notes = _notes(curve, supply.slots, given["utterance"])
    if as_json:
        about = {**given, "curve": curve.name, "source": curve.source, "slots_a_pod": supply.slots}
        rows = [asdict(one) for one in sized]
        print(json.dumps({**about, "queue": supply.queue, "notes": notes, "rows": rows}))
    else:
        _print(curve, supply, sized, given, notes)


def _supply(curve: Curve, given: dict[str, Any]) -> Supply:
    most = curve.points[-1].streams
    slots = given["slots"] or curve.most_streams(given["buffer"] / 1000)
    if not slots:
        raise CannotPlan(f"{curve.name}: not one measured number of streams was heard in real time")
    if slots > most:
        raise CannotPlan(f"{slots} slots were not measured, {most} were: measure them with `lyre bench`")
    queue = slots // 4 if given["queue"] is None else given["queue"]
    return Supply(
        slots,
        queue,
        given["patience"],
        cell=given["cell"],
        spare=given["spare"],
        gpus_a_pod=given["gpus_a_pod"],
        gpu_hour=given["gpu_hour_price"],
        seed=given["seed"],
    )


def _demand(callers: float, given: dict[str, Any]) -> Demand:
    return Demand(callers, given["listening"], given["utterance"], given["ttfa"] / 1000, given["rejected"])


def _notes(curve: Curve, slots: int, utterance: float) -> list[str]:
    """What of the curve was measured otherwise than it is asked about."""
    points = [point for point in curve.points if point.streams <= slots]
    other = [point for point in points if not 1 / FAR <= utterance / point.seconds <= FAR]
    lengths = ", ".join(f"{point.streams} ({point.seconds:g} s)" for point in other)
    return [f"requests of other lengths were measured at {lengths} streams"] if other else []


def _print(curve: Curve, supply: Supply, sized: Sequence[Sized], given: dict[str, Any], notes: Sequence[str]) -> None:
    # Wide, whatever the terminal: a folded figure is no figure. A pipe gets the same lines. A name is no markup.
    console = Console(width=200, highlight=False, markup=False)
    console.print(f"{curve.name}\n{curve.source}", style="dim")
    console.print(
        f"{supply.slots} streams at once and {supply.queue} waiting a pod, {given['utterance']:g} s of speech a "
        f"request, 95 % of first audios within {given['ttfa']:g} ms, with {supply.spare} of a cell's pods lost:"
    )
    table = Table(box=box.SIMPLE_HEAD)
    rows = [_cells(one) for one in sized]
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    for note in notes:
        console.print(f"note: {note}")


def _cells(one: Sized) -> dict[str, str]:
    shown = {
        "callers": f"{one.callers:,.0f}",
        "heard at once": f"{one.playing:,.0f}",
        "requests/s": f"{one.requests_per_s:,.1f}",
        "cells x pods": f"{one.cells:,} x {one.pods_a_cell}",
        "GPUs": f"{one.gpus:,}",
        "slots": f"{one.slots:,}",
        "busy": f"{one.busy_share:.0%}",
        "must wait": f"{one.waiting_share:.2%}",
        "rejected": f"{one.rejected_share:.3%}",
        "TTFA p50 / p95, ms": f"{1000 * one.first_p50:.0f} / {1000 * one.first_p95:.0f}",
        "RTF p95": f"{one.factor_p95:.2f}",
    }
    if one.cost_per_hour is not None:
        shown["an hour"] = f"{one.cost_per_hour:,.2f}"
        shown["an hour of audio"] = f"{one.cost_per_audio_hour:.4f}"
    return shown
