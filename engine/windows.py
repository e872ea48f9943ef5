"""Which samples a streaming decode may send. Pure arithmetic; all positions are samples from the utterance's start.

The decoder is stateful: a call that pushes frames [start, start + count) puts out the samples of that span moved back
by a constant lag (its look-ahead), so the first calls also cover positions before 0, the flush ones past the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

SAMPLE_RATE = 24_000
SAMPLES_PER_FRAME = 2048


@dataclass(frozen=True)
class Window:
    """Of the samples of one decode call, keep [skip, skip + keep)."""

    skip: int
    keep: int


def window(start: int, count: int, lag: int, total: int | None = None) -> Window:
    """What to keep of a call that pushes `count` frames after `start` earlier ones; `total` frames exist, if known."""
    first = start * SAMPLES_PER_FRAME - lag
    end = first + count * SAMPLES_PER_FRAME
    low = max(first, 0)
    high = end if total is None else min(end, total * SAMPLES_PER_FRAME)
    return Window(skip=low - first, keep=max(0, high - low))


def flush_frames(lag: int) -> int:
    """How many empty frames push the last real sample out."""
    return ceil(lag / SAMPLES_PER_FRAME)
