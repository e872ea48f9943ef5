"""What is kept of a request's times, and what a listener would have heard, on a clock that the test turns."""

from __future__ import annotations

import pytest

from engine.tally import Distribution, Tally
from engine.timings import Timings, leading_quiet

SECOND = b"\x00\x40" * 24_000  # loud
QUIET = b"\xff\x00\x00\xff" * 12_000  # 255 and -256: a second of the loudest silence


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def timings(tally: Tally, clock: Clock) -> Timings:
    return Timings(tally, clock)


def test_the_times_of_a_request(timings: Timings, clock: Clock) -> None:
    assert (timings.taken, timings.started, timings.first_audio, timings.queue_seconds) == (100, None, None, None)
    assert timings.synthesis_seconds is None
    clock.now = 101.0
    timings.start()
    clock.now = 103.0
    timings.start()  # on another device
    timings.audio(SECOND)
    clock.now = 103.5
    timings.audio(SECOND)
    assert (timings.started, timings.first_audio, timings.last_audio) == (101, 103, 103.5)
    assert (timings.queue_seconds, timings.synthesis_seconds, timings.underruns) == (1.0, 2.5, 0)


@pytest.mark.parametrize(
    ("arrivals", "underruns"),
    [
        ([0, 1.0, 2.0], 0),  # each as the last one ends
        ([0, 0.1, 2.0, 3.0], 0),  # what came early is in hand
        ([0, 1.01, 2.01], 1),  # late once: the listener waited, and plays on from there
        ([0, 1.5, 3.0, 4.5], 3),  # late each time
    ],
)
def test_underruns_are_by_the_listeners_clock(
    timings: Timings, tally: Tally, clock: Clock, arrivals: list[float], underruns: int
) -> None:
    for arrival in arrivals:
        clock.now = 200.0 + arrival
        timings.audio(SECOND)
    assert timings.underruns == tally.underruns == underruns
    assert sum(tally.intervals.counts) == len(arrivals) - 1
    assert tally.intervals.sum == pytest.approx(arrivals[-1])


@pytest.mark.parametrize(("late", "underruns"), [(0.9, 0), (1.1, 1)])
def test_a_pause_that_only_gets_longer_is_no_underrun(
    timings: Timings, clock: Clock, late: float, underruns: int
) -> None:
    timings.audio(SECOND)
    clock.now += 1.0 + late
    timings.audio(QUIET + SECOND)
    assert timings.underruns == underruns
    # The listener plays on from there all the same.
    clock.now += 2.5
    timings.audio(SECOND)
    assert timings.underruns == underruns + 1


@pytest.mark.parametrize(("speed", "underruns"), [(0.5, 0), (1.0, 1), (2.0, 3)])
def test_who_listens_faster_needs_it_sooner(timings: Timings, clock: Clock, speed: float, underruns: int) -> None:
    timings.speed = speed
    for arrival in (0, 0.6, 2.5, 3.2):
        clock.now = 200.0 + arrival
        timings.audio(SECOND)
    assert timings.underruns == underruns


def test_the_first_audible_sound_is_heard_after_the_silence_before_it(timings: Timings, clock: Clock) -> None:
    timings.audio(QUIET)
    clock.now = 100.2
    timings.audio(bytes(4800) + SECOND)
    assert timings.first_audio == 100.0
    assert timings.first_audible == pytest.approx(101.1)


def test_silence_that_runs_out_delays_it(timings: Timings, clock: Clock) -> None:
    timings.audio(QUIET)
    clock.now = 105.0
    timings.audio(SECOND)
    assert timings.first_audible == 105.0


def test_silence_alone_is_never_audible(timings: Timings) -> None:
    timings.audio(QUIET)
    assert timings.first_audible is None


@pytest.mark.parametrize(
    ("sample", "audible"),
    [(0, False), (255, False), (-256, False), (256, True), (-257, True), (32767, True), (-32768, True)],
)
def test_what_is_audible(sample: int, audible: bool) -> None:
    pcm = bytes(20) + sample.to_bytes(2, "little", signed=True) + bytes(10)
    assert leading_quiet(pcm) == (10 if audible else 16)
    assert leading_quiet(b"") == 0


def test_a_distribution_counts_what_equals_a_bound_below_it() -> None:
    values = Distribution((1, 2))
    for value in (0.5, 1, 1.5, 2, 3):
        values.add(value)
    assert (values.counts, values.sum) == ([2, 2, 1], 8)


def test_steps_are_counted(tally: Tally) -> None:
    tally.step(3, 0.02)
    tally.step(1, 0.01)
    assert (tally.steps, tally.tokens, tally.batch_sizes.sum) == (2, 28, 4)
    assert tally.step_seconds.sum == pytest.approx(0.03)
