"""The fewest pods that keep every promise to so many callers, with one pod lost; and what they cost.

Large fleets are cells: groups of pods with a balancer each, which do not know of one another. A caller belongs to one
of them, so that what breaks one, or its balancer, is not everybody's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from api.plan.curve import Curve
from api.plan.simulation import Exponential, Group, Seen, quantile, simulate

ARRIVALS = 8_000
"""Of a simulation: a 95th percentile rests on 320 above it."""
MOST_BUSY = 0.9
"""Of the speech that full slots make in a second. Nearer to it queues grow for minutes, and no curve is that exact."""
LEAST_ROUNDS = 1.5
"""Every slot of a group is taken at least so often in a simulation."""
CROWDED_ROUNDS = 6.0
"""The same of one that begins with a crowd, which has to be gone before the arrivals count."""


class CannotPlan(Exception):
    """No number of pods does it; the message says why."""


@dataclass(frozen=True)
class Demand:
    """Callers and promises; times in seconds."""

    callers: float
    listening: float
    """The share of a call in which its caller is spoken to."""
    utterance: float
    """Mean length of a speech request's audio."""
    first: float
    """What 95 % of the first audios must not exceed."""
    rejected: float
    """The share of requests that may be refused."""

    @property
    def playing(self) -> float:
        """Seconds of speech that are needed each second: streams that are heard at once, on average."""
        return self.callers * self.listening

    @property
    def rate(self) -> float:
        """Speech requests a second."""
        return self.playing / self.utterance


@dataclass(frozen=True)
class Supply:
    """How pods are run: streams at once and queue places of each, patience in seconds, pods of a cell at most, pods to
    spare in each cell, dollars (or whatever) for an hour of a GPU, seed of the simulation."""

    slots: int
    queue: int
    patience: float
    cell: int = 16
    spare: int = 1
    gpus_a_pod: int = 1
    gpu_hour: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Sized:
    """A fleet; shares and times are those of a cell that has lost its spare pods, when all callers are there."""

    callers: float
    playing: float
    requests_per_s: float
    cells: int
    pods_a_cell: int
    """With the spare ones."""
    pods: int
    gpus: int
    slots: int
    """Of all pods."""
    busy_share: float
    waiting_share: float
    wait_p95: float
    rejected_share: float
    first_p50: float
    first_p95: float
    factor_p95: float
    cost_per_hour: float | None
    cost_per_audio_hour: float | None


def size(curve: Curve, demand: Demand, supply: Supply) -> Sized:
    """The smallest fleet. CannotPlan."""
    slots = supply.slots
    firsts, factors = curve.firsts(slots), curve.factors(slots)
    alone = firsts[1][1]
    if alone > demand.first:
        raise CannotPlan(
            f"the first audio takes {1000 * alone:.4g} ms (p95) already for the fewest streams that were measured: "
            f"no number of pods makes that {1000 * demand.first:.4g} ms"
        )
    one = Group(1, slots, factors, firsts, supply.queue, supply.patience)

    def seen(pods: int, cells: int, crowded: bool = False) -> Seen:
        arrivals = max(ARRIVALS, ceil((CROWDED_ROUNDS if crowded else LEAST_ROUNDS) * pods * slots))
        group, lengths = replace(one, pods=pods, queue=pods * supply.queue), Exponential(demand.utterance)
        return simulate(group, demand.rate / cells, lengths, arrivals, supply.seed, crowded)

    def kept(pods: int, cells: int) -> bool:
        # Where a pod makes less speech with more streams it may stay crowded once it is: promises hold then, too.
        return all(_keeps(demand, seen(pods, cells, crowded)) for crowded in (False, True))

    # A pod of so many streams keeps the promise when nothing fluctuates: where the search begins.
    steady = max(n for n in range(1, slots + 1) if firsts[n][1] <= demand.first)
    guess = max(1, ceil(demand.playing * factors[steady] / steady))
    floor = max(1, ceil(demand.playing * factors[slots] / slots / MOST_BUSY))
    largest, cells = supply.cell - supply.spare, 1
    if floor > largest or not kept(largest, 1):
        # With less than a stream in every second cell there is nobody left who could be in another's way.
        most = max(2 * ceil(demand.playing), ceil(floor / largest))
        cells = _fewest(lambda cells: kept(largest, cells), ceil(guess / largest), ceil(floor / largest), most)
    guess, floor = (max(1, min(largest, ceil(pods / cells))) for pods in (guess, floor))
    pods = _fewest(lambda pods: pods == largest or kept(pods, cells), guess, floor, largest)
    return _sized(
        demand, supply, pods, cells, max((seen(pods, cells, crowded) for crowded in (False, True)), key=_late)
    )


def _keeps(demand: Demand, met: Seen) -> bool:
    return met.rejected_share <= demand.rejected and _late(met) <= demand.first


def _late(met: Seen) -> float:
    return quantile(met.firsts, 0.95)


def _fewest(enough: Callable[[int], bool], guess: int, floor: int, most: int) -> int:
    """The smallest number, at least `floor`, that is enough: searched around `guess`, within 1 % of large ones.

    CannotPlan when `most` is not enough.
    """
    low, high = floor - 1, min(max(guess, floor), most)
    step = max(1, high // 50)
    while not enough(high):
        if high == most:
            raise CannotPlan("the promise is so near to what a lone stream takes that no number of pods keeps it")
        low, high, step = high, min(high + step, most), 2 * step
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _sized(demand: Demand, supply: Supply, pods: int, cells: int, met: Seen) -> Sized:
    whole = pods + supply.spare
    gpus = cells * whole * supply.gpus_a_pod
    cost = None if supply.gpu_hour is None else gpus * supply.gpu_hour
    return Sized(
        callers=demand.callers,
        playing=demand.playing,
        requests_per_s=demand.rate,
        cells=cells,
        pods_a_cell=whole,
        pods=cells * whole,
        gpus=gpus,
        slots=cells * whole * supply.slots,
        busy_share=met.busy / (pods * supply.slots),
        waiting_share=met.waiting_share,
        wait_p95=quantile(met.waits, 0.95),
        rejected_share=met.rejected_share,
        first_p50=quantile(met.firsts, 0.5),
        first_p95=quantile(met.firsts, 0.95),
        factor_p95=quantile(met.factors, 0.95),
        cost_per_hour=cost,
        cost_per_audio_hour=None if cost is None else cost / demand.playing,
    )
