"""Lives: when a device's engine processes were started, ready and lost, and so when the next one should be ready."""

from __future__ import annotations

import time
from collections.abc import Callable

STEADY_SECONDS = 60.0  # a process that was ready for so long wipes out the count of losses in a row
LOAD_SECONDS = 60.0
LOAD_LEEWAY = 3.0


class Lives:
    """`losses` counts those in a row; between them, starts are further and further apart."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.losses = 0
        self._clock = clock
        self._born = clock()
        self._ready: float | None = None
        self._alive = False
        self._load_seconds = 5.0
        self._back_at = 0.0

    @property
    def pause(self) -> float:
        """Seconds before the next start."""
        return min(0.5 * 2 ** min(self.losses, 5), 10.0)

    @property
    def back_in(self) -> float:
        """Seconds until the next one should be ready, from how long the last start took; at least one."""
        return max(1.0, self._back_at - self._clock())

    @property
    def load_limit(self) -> float:
        """Seconds without a word after which a process that loads again hangs: a few times its last load."""
        return max(LOAD_SECONDS, LOAD_LEEWAY * self._load_seconds)

    def born(self) -> None:
        """A process was started."""
        self._born, self._ready, self._alive = self._clock(), None, True

    def ready(self) -> None:
        """It takes requests."""
        self._ready = self._clock()
        self._load_seconds = self._ready - self._born

    def lost(self) -> None:
        """It has died, or hangs; said again of the same one it changes nothing."""
        if not self._alive:
            return
        self._alive = False
        # Loading does not count as a life, however long it took.
        steady = self._ready is not None and self._clock() - self._ready > STEADY_SECONDS
        self.losses = 1 if steady else self.losses + 1
        self._back_at = self._clock() + self.pause + self._load_seconds
