"""What an engine has done since it was made, in plain numbers: what a metrics page shows, whatever its format.

Everything is counted on one event loop; reading is safe from any thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Final

from engine.prompt import FRAME_TOKENS

STEP_BOUNDS: Final = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.07, 0.085, 0.1, 0.15, 0.25, 0.5, 1, 5)
BATCH_BOUNDS: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512)
INTERVAL_BOUNDS: Final = (0.01, 0.025, 0.05, 0.07, 0.085, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)


class Distribution:
    """How many values fell below each bound, and their sum. Costs a fraction of a microsecond a value."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """One more value; one that equals a bound counts as below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Tally:
    """The counts of all devices together.

    `steps` are frames of a batch and `step_seconds` what each took the language model, `batch_sizes` how many streams
    it had. `restarts` are by cause. `intervals` are seconds between two pieces of a stream's audio, `underruns` how
    often a piece came later than its listener needed it.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.tokens = 0
        self.underruns = 0
        self.restarts: Counter[str] = Counter()
        self.step_seconds = Distribution(STEP_BOUNDS)
        self.batch_sizes = Distribution(BATCH_BOUNDS)
        self.intervals = Distribution(INTERVAL_BOUNDS)

    def step(self, streams: int, seconds: float) -> None:
        """A frame of so many streams has landed."""
        self.steps += 1
        self.tokens += FRAME_TOKENS * streams
        self.step_seconds.add(seconds)
        self.batch_sizes.add(streams)
