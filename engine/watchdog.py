"""Watchdog: how long an engine process with work has said nothing, in time in which this process ran itself.

A server that was stopped, starved or blocked for a minute has not listened for a minute: that is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LOOKS = 20  # how often it is to be asked within its limit
LEEWAY = 3.0  # a turn of the engine's loop may take so many times what its warm synthesis took


class Watchdog:
    """Counts from the last `rest()`. `seconds` is the limit, 0: there is none."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = seconds
        self._off = seconds == 0
        self._clock = clock
        self._silent = 0.0
        self._looked = clock()

    @property
    def interval(self) -> float:
        """Seconds between two questions."""
        return self.limit / LOOKS if not self._off else 1.0

    def expect(self, seconds: float) -> None:
        """A warm synthesis took so long: on a slow device, the limit is no shorter than a few of them."""
        self.limit = max(self.limit, LEEWAY * seconds)

    def rest(self) -> None:
        """It has spoken, or has nothing to do."""
        self._silent, self._looked = 0.0, self._clock()

    def hung(self) -> bool:
        """Whether it has been silent for too long; to be asked once an `interval`."""
        now = self._clock()
        # Who asks this late was not running meanwhile.
        self._silent += min(now - self._looked, 2 * self.interval)
        self._looked = now
        return not self._off and self._silent >= self.limit
