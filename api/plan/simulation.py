"""Poisson arrivals at a group of equal pods behind one balancer, event by event. Seeded, plain Python, no clock.

A pod is a queueing station whose speed depends on how many it serves: with n streams each gets 1 / factor(n) seconds of
speech a second. It is M/G/c where the factor is constant. Who comes goes to the pod with the fewest streams; when all
slots are taken, into one queue, first come first served. Who finds the queue full, or waits longer than its patience,
is rejected.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, inf

WARM_SHARE = 0.2
"""The first arrivals, which do not count: the group begins near its balance, and settles in them."""


@dataclass(frozen=True)
class Exponential:
    """Lengths of speech with this mean in seconds and as much spread: many short ones, a few long ones."""

    mean: float

    def draw(self, chance: random.Random) -> float:
        """A length."""
        return chance.expovariate(1 / self.mean)


@dataclass(frozen=True)
class Measured:
    """Lengths of speech that were heard, in seconds, each as likely as the others."""

    lengths: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of all of them."""
        return sum(self.lengths) / len(self.lengths)

    def draw(self, chance: random.Random) -> float:
        """A length."""
        return chance.choice(self.lengths)


Lengths = Exponential | Measured


@dataclass(frozen=True)
class Group:
    """`pods` of `slots` each. `factors` and `firsts` for 0 to `slots` streams, as Curve gives them, in seconds."""

    pods: int
    slots: int
    factors: Sequence[float]
    firsts: Sequence[tuple[float, float, float]]
    queue: int
    """Places to wait, of all pods together."""
    patience: float = inf
    """Seconds that a request waits for a slot."""


@dataclass
class Seen:
    """What the arrivals that counted met, in seconds. A rejected one is in no list but `rejected`."""

    arrived: int = 0
    rejected: int = 0
    waits: list[float] = field(default_factory=list)
    """Of all who were served, 0 for most."""
    firsts: list[float] = field(default_factory=list)
    """To the first audio, waiting included."""
    factors: list[float] = field(default_factory=list)
    """Time over speech, from the slot on, of those who began after the warm share and ended."""
    busy: float = 0.0
    """Streams at once, on average."""

    @property
    def rejected_share(self) -> float:
        """Of all who came."""
        return self.rejected / max(1, self.arrived)

    @property
    def waiting_share(self) -> float:
        """Of those who were served, who had to wait for a slot."""
        return sum(wait > 0 for wait in self.waits) / max(1, len(self.waits))


@dataclass(slots=True)
class _Pod:
    """`served`: the seconds of speech that a stream would have, had it been here since the beginning."""

    served: float = 0.0
    since: float = 0.0
    turn: int = 0
    streams: list[tuple[float, float, float, bool]] = field(default_factory=list)
    """A heap: served when it ends, when it began, its seconds, whether it counts."""


def simulate(group: Group, rate: float, lengths: Lengths, arrivals: int, seed: int = 0, crowded: bool = False) -> Seen:
    """`arrivals` at `rate` a second; `crowded`: they find every slot taken at first, as after a crowd."""
    return _Run(group, rate, lengths, random.Random(seed)).run(arrivals, crowded)


class _Run:
    def __init__(self, group: Group, rate: float, lengths: Lengths, chance: random.Random) -> None:
        self._group, self._rate, self._lengths, self._chance = group, rate, lengths, chance
        self._pods = [_Pod() for _ in range(group.pods)]
        self._ends: list[tuple[float, int, int]] = []
        self._queue: deque[tuple[float, float, bool]] = deque()
        self._seen = Seen()
        self._running, self._area, self._area_since, self._counting_from = 0, 0.0, 0.0, inf

    def run(self, arrivals: int, crowded: bool) -> Seen:
        """Ends when the last arrival has come; who then still speaks is in no factor."""
        self._fill(crowded)
        now, warm = 0.0, int(WARM_SHARE * arrivals)
        for number in range(arrivals):
            now += self._chance.expovariate(self._rate)
            self._leave_until(now)
            if number == warm:
                self._counting_from, self._area, self._area_since = now, 0.0, now
            self._arrive(now, number >= warm)
        self._count(now)
        self._seen.busy = self._area / max(1e-9, now - self._counting_from)
        return self._seen

    def _fill(self, crowded: bool) -> None:
        """Begin with the fewest streams that make as much speech as is asked for, each somewhere in its speech.

        More may make as much again, where a pod makes less with more streams: see `crowded`.
        """
        wanted, slots = self._rate * self._lengths.mean / self._group.pods, self._group.slots
        enough = (n for n in range(slots + 1) if n / self._group.factors[n] >= wanted)
        level = slots if crowded else next(enough, slots)
        # Whoever looks in finds a speech in proportion to its length, anywhere in it.
        sample = [self._lengths.draw(self._chance) for _ in range(1000)]
        for pod in range(self._group.pods):
            for seconds in self._chance.choices(sample, sample, k=level):
                self._begin(pod, 0.0, seconds * self._chance.random(), counts=False)

    def _arrive(self, now: float, counts: bool) -> None:
        seconds = self._lengths.draw(self._chance)
        self._seen.arrived += counts
        index = min(range(len(self._pods)), key=lambda i: len(self._pods[i].streams))
        if len(self._pods[index].streams) < self._group.slots:
            self._serve(index, now, now, seconds, counts)
        elif len(self._queue) < self._group.queue:
            self._queue.append((now, seconds, counts))
        else:
            # Who waits at the head beyond its patience has left, and its place is free.
            self._impatient(now)
            if len(self._queue) < self._group.queue:
                self._queue.append((now, seconds, counts))
            else:
                self._seen.rejected += counts

    def _impatient(self, now: float) -> None:
        while self._queue and now - self._queue[0][0] > self._group.patience:
            self._seen.rejected += self._queue.popleft()[2]

    def _serve(self, index: int, now: float, came: float, seconds: float, counts: bool) -> None:
        self._begin(index, now, seconds, counts)
        if counts:
            self._seen.waits.append(now - came)
            self._seen.firsts.append(now - came + self._first(len(self._pods[index].streams)))

    def _first(self, streams: int) -> float:
        """Drawn along a line through the percentiles: from as far below the median as the 95th is above it."""
        p50, p95, p99 = self._group.firsts[streams]
        share = self._chance.random()
        if share < 0.5:
            return p50 - (p50 - max(0.0, 2 * p50 - p95)) * (0.5 - share) / 0.5
        if share < 0.95:
            return p50 + (p95 - p50) * (share - 0.5) / 0.45
        return p95 + (p99 - p95) * (share - 0.95) / 0.04

    def _begin(self, index: int, now: float, seconds: float, counts: bool) -> None:
        pod = self._pods[index]
        self._pass(pod, now)
        heapq.heappush(pod.streams, (pod.served + seconds, now, seconds, counts))
        self._count(now)
        self._running += 1
        self._next_end(index, now)

    def _leave_until(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            when, index, turn = heapq.heappop(self._ends)
            # Somebody came since: the end was put off.
            if turn == self._pods[index].turn:
                self._leave(index, when)

    def _leave(self, index: int, when: float) -> None:
        pod = self._pods[index]
        self._pass(pod, when)
        _, began, seconds, counts = heapq.heappop(pod.streams)
        self._count(when)
        self._running -= 1
        if counts and seconds > 0:
            self._seen.factors.append((when - began) / seconds)
        self._impatient(when)
        if self._queue:
            came, seconds, counts = self._queue.popleft()
            self._serve(index, when, came, seconds, counts)
        else:
            self._next_end(index, when)

    def _pass(self, pod: _Pod, now: float) -> None:
        pod.served += (now - pod.since) / self._group.factors[len(pod.streams)]
        pod.since = now

    def _next_end(self, index: int, now: float) -> None:
        pod = self._pods[index]
        pod.turn += 1
        if pod.streams:
            left = max(0.0, pod.streams[0][0] - pod.served)
            heapq.heappush(self._ends, (now + left * self._group.factors[len(pod.streams)], index, pod.turn))

    def _count(self, now: float) -> None:
        self._area += self._running * (now - self._area_since)
        self._area_since = now


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest rank; 0 of no values."""
    ranked = sorted(values)
    return ranked[max(0, ceil(share * len(ranked) - 1e-9) - 1)] if ranked else 0.0
