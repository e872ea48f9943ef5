"""What counts as silence: time in which the server ran and heard nothing, and no other."""

from __future__ import annotations

import pytest

from engine.watchdog import LEEWAY, Watchdog


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def asked_until_hung(watchdog: Watchdog, clock: Clock, most: int = 10_000) -> float | None:
    """Seconds until it says so, asked as often as it wants to be."""
    began = clock.now
    for _ in range(most):
        clock.now += watchdog.interval
        if watchdog.hung():
            return clock.now - began
    return None


def test_silence_for_its_seconds_is_a_hang(clock: Clock) -> None:
    assert asked_until_hung(Watchdog(10.0, clock), clock) == pytest.approx(10.0, abs=0.6)


def test_a_word_now_and_then_is_none(clock: Clock) -> None:
    watchdog = Watchdog(10.0, clock)
    for _ in range(100):
        assert asked_until_hung(watchdog, clock, most=18) is None
        watchdog.rest()


def test_time_in_which_the_server_did_not_run_hardly_counts(clock: Clock) -> None:
    watchdog = Watchdog(10.0, clock)
    # Stopped, starved or blocked nine times, for an hour each.
    for _ in range(9):
        clock.now += 3600
        assert not watchdog.hung()
    watchdog.rest()
    assert asked_until_hung(watchdog, clock) == pytest.approx(10.0, abs=0.6)


def test_a_slow_device_gets_as_long_as_its_warm_synthesis_tells(clock: Clock) -> None:
    watchdog = Watchdog(10.0, clock)
    watchdog.expect(0.5)
    assert watchdog.limit == 10.0
    watchdog.expect(20.0)
    assert asked_until_hung(watchdog, clock) == pytest.approx(LEEWAY * 20.0, rel=0.1)


def test_zero_is_never(clock: Clock) -> None:
    watchdog = Watchdog(0.0, clock)
    watchdog.expect(1.0)
    assert watchdog.interval > 0
    assert asked_until_hung(watchdog, clock) is None
