"""When a frame is launched: as late as nobody waits for it."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest

from engine.pace import GUARD, Pace


def flown(pace: Pace, rows: int, seconds: float, now: float) -> float:
    """A frame that is launched and lands; -> the time after it."""
    pace.launched(rows, now)
    pace.landed(now + seconds)
    return now + seconds


def test_an_unknown_size_is_launched_at_once() -> None:
    pace = Pace()
    assert pace.patience(5.0) == 0.0
    pace.launched(4, 5.0)
    assert pace.patience(5.0) == 0.0


def test_the_next_launch_waits_until_just_before_the_frame_is_done() -> None:
    pace = Pace()
    now = flown(pace, 4, 0.02, 5.0)
    pace.launched(4, now + 1.0)
    assert pace.patience(now + 1.0) == pytest.approx(0.02 - GUARD)
    assert pace.patience(now + 1.015) == pytest.approx(0.005 - GUARD)
    assert pace.patience(now + 1.02) == 0.0


def test_two_frames_in_flight_follow_each_other() -> None:
    pace = Pace()
    now = flown(pace, 4, 0.02, 5.0)
    pace.launched(4, now)
    pace.launched(3, now + 0.018)
    assert pace.patience(now + 0.018) == pytest.approx(0.022 - GUARD)
    pace.landed(now + 0.02)
    # Launched before the first was done, it has been running only since then.
    pace.landed(now + 0.04)
    assert pace.frame == pytest.approx(0.02)
    pace.launched(4, now + 0.04)
    assert pace.patience(now + 0.04) == pytest.approx(0.02 - GUARD)


def test_batches_of_other_sizes_have_times_of_their_own() -> None:
    pace = Pace()
    now = flown(pace, 1, 0.01, 0.0)
    now = flown(pace, 64, 0.03, now)
    now = flown(pace, 400, 0.06, now)
    now = flown(pace, 260, 0.045, now)
    for rows, seconds in ((1, 0.01), (33, 0.03), (64, 0.03), (288, 0.045), (385, 0.06)):
        pace.launched(rows, now)
        assert pace.patience(now) == pytest.approx(seconds - GUARD)
        pace.forget()
    assert pace.patience(now) == 0.0


def test_estimates_follow_what_is_measured() -> None:
    pace, now = Pace(), 0.0
    for seconds in [0.02] * 5 + [0.04] * 40:
        now = flown(pace, 8, seconds, now)
    pace.launched(8, now)
    assert pace.patience(now) == pytest.approx(0.04 - GUARD, rel=0.01)


def test_what_passes_between_frames_is_the_most_of_late() -> None:
    pace, now = Pace(), 0.0
    for seconds in (0.02, 0.05, 0.02, 0.02):
        now = flown(pace, 8, seconds, now)
    assert 0.04 < pace.frame <= 0.05
    for _ in range(100):
        now = flown(pace, 8, 0.02, now)
    assert pace.frame == pytest.approx(0.02, rel=0.05)


def test_the_longest_wait_is_that_of_late_or_a_whole_batchs() -> None:
    pace, now = Pace(), 0.0
    for rows, seconds in ((256, 0.05), *[(4, 0.02)] * 100):
        now = flown(pace, rows, seconds, now)
    assert pace.longest(4) == pytest.approx(0.02, rel=0.05)
    assert pace.longest(256) == pytest.approx(0.05)


def test_a_host_that_is_late_does_not_make_the_next_launch_later() -> None:
    """A first frame behind many prompts, and launches that take longer than the guard."""
    device, late, prompts = 0.015, GUARD + 0.001, 0.2
    pace, now, free = Pace(), 0.0, prompts
    flights: deque[float] = deque()
    landings = []
    for _ in range(200):
        now += pace.patience(now) + late
        pace.launched(16, now)
        free = max(free, now) + device
        flights.append(free)
        if len(flights) > 1:
            now = max(now, flights.popleft())
            pace.landed(now, device)
            landings.append(now)
    between = [b - a for a, b in pairwise(landings)]
    assert max(between) < device + late


def test_a_smaller_batch_is_worth_it_where_it_is_much_quicker() -> None:
    pace = Pace()
    assert pace.quicker(4, 8)
    assert not pace.quicker(5, 8)
    now = 0.0
    for rows, seconds in ((1, 0.012), (16, 0.015), (256, 0.047)):
        now = flown(pace, rows, seconds, now)
    assert not pace.quicker(1, 16)
    assert pace.quicker(1, 256)
    assert pace.quicker(16, 200)
    assert not pace.quicker(200, 256)
