"""How long frames take: when the next one should be launched, and how much audio bridges the time to it.

A frame that is launched early cannot take in a stream that comes meanwhile; one that is launched late lets the device
stand still. So it is launched just before the device has finished all that it was given.
"""

from __future__ import annotations

from collections import deque

GUARD = 0.003  # seconds by which a launch comes before the device is done, for what the host takes to make it
WORTH = 0.6  # the share of a whole batch's time below which a smaller batch is worth making others wait
_FADE = 0.05  # how much of the longest time a shorter one takes away
_FORGET = 0.2  # how much of an estimate the latest frame replaces


class Pace:
    """All times are seconds of one clock, given by the caller."""

    def __init__(self) -> None:
        self.frame = 0.0  # the most that passes of late from frame to frame, whatever their size
        self._expected: dict[int, float] = {}  # what a frame takes the device, by the size of its batch
        self._flights: deque[tuple[int, float]] = deque()
        self._landed = 0.0

    def launched(self, rows: int, now: float) -> None:
        """A frame of so many rows begins when those before it are done."""
        self._flights.append((rows, now))

    def landed(self, now: float, seconds: float | None = None) -> float:
        """The oldest frame is done; -> what it took. `seconds`: the same by the device's clock, if it has one.

        What passes until the host looks says too much: it looks when it expects the end, and prompts come in between.
        Frames would be launched ever later.
        """
        rows, launched = self._flights.popleft()
        taken = now - max(launched, self._landed)
        self._landed = now
        own = taken if seconds is None else seconds
        known = self._expected.get(_size(rows), own)
        self._expected[_size(rows)] = known + _FORGET * (own - known)
        self.frame = max(taken, self.frame + _FADE * (taken - self.frame))
        return own

    def forget(self) -> None:
        """Nobody waits any more for what is in flight."""
        self._flights.clear()

    def longest(self, rows: int) -> float:
        """What may pass until the next frame, be it as of late or one of so many rows."""
        return max(self.frame, self._expected.get(_size(rows), 0.0))

    def quicker(self, few: int, all_rows: int) -> bool:
        """Whether a frame of `few` rows takes so much less than one of all that it is worth one."""
        small, large = self._expected.get(_size(few)), self._expected.get(_size(all_rows))
        if small is None or large is None:
            return 2 * few <= all_rows
        return small < WORTH * large

    def patience(self, now: float) -> float:
        """Seconds until the next frame should be launched; 0 where nothing is in flight, or nobody knows."""
        done = self._landed
        for rows, launched in self._flights:
            done = max(done, launched) + self._expected.get(_size(rows), 0.0)
        return max(0.0, done - GUARD - now) if self._flights else 0.0


def _size(rows: int) -> int:
    """Batches of similar sizes take similar times: up to a power of two, from 32 on in steps of 32."""
    return (rows - 1).bit_length() if rows <= 32 else 32 * -(-rows // 32)
