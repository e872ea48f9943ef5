"""When what happened to one request, and how a listener fares who plays its audio as soon as the first of it is there.

All times are of the monotonic clock, as the server's process saw them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.tally import Tally

BYTES_PER_SECOND = 48_000  # s16le mono at 24 kHz


class Timings:
    """`None` is what has not happened (yet).

    `taken`: the request was accepted. `started`: it has its slot. `first_audio`, `last_audio`: its first and its latest
    piece came. `first_audible`: the listener hears the first sample that is louder than silence; what counts as silence
    is below 1/128 of full scale, 42 dB down. `underruns` counts how often it was heard that the audio ran out; the
    listener waits for the next piece and plays on from there. `speed` is how fast the listener plays it.
    """

    def __init__(self, tally: Tally | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._tally = tally or Tally()
        self._clock = clock
        self.taken = clock()
        self.started: float | None = None
        self.first_audio: float | None = None
        self.last_audio: float | None = None
        self.first_audible: float | None = None
        self.underruns = 0
        self.speed = 1.0
        self._lasts_until = 0.0  # when the listener has played all that came

    def start(self) -> None:
        """It has its slot. Only the first time counts: one that was queued on a device that died gets another."""
        if self.started is None:
            self.started = self._clock()

    def audio(self, pcm: bytes) -> None:
        """The next samples came."""
        now = self._clock()
        if self.last_audio is None:
            self.first_audio = self._lasts_until = now
        else:
            self._tally.intervals.add(now - self.last_audio)
            if now > self._lasts_until:
                # What is late by no more than the silence it begins with only makes a pause longer.
                if now - self._lasts_until > 2 * leading_quiet(pcm) / (BYTES_PER_SECOND * self.speed):
                    self.underruns += 1
                    self._tally.underruns += 1
                self._lasts_until = now
        if self.first_audible is None and (quiet := leading_quiet(pcm)) < len(pcm) // 2:
            self.first_audible = self._lasts_until + 2 * quiet / (BYTES_PER_SECOND * self.speed)
        self._lasts_until += len(pcm) / (BYTES_PER_SECOND * self.speed)
        self.last_audio = now

    @property
    def queue_seconds(self) -> float | None:
        """How long it waited for its slot."""
        return None if self.started is None else self.started - self.taken

    @property
    def synthesis_seconds(self) -> float | None:
        """From its slot to its latest piece."""
        if self.last_audio is None:
            return None
        return self.last_audio - (self.taken if self.started is None else self.started)


def leading_quiet(pcm: bytes) -> int:
    """How many samples of s16le come before the first that is louder than silence: from 256 on, or below -256."""
    # The upper byte of a silent sample is 0 or 255, and both methods run at the speed of memory.
    upper = pcm[1::2]
    return len(upper) - len(upper.lstrip(b"\x00\xff"))
