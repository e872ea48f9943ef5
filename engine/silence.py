"""Silence: how much quiet of a request's speech is passed on. Plain arithmetic on s16le mono PCM, piece by piece.

However the audio is cut into pieces, the same samples come out. Positions and lengths are samples at 24 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from engine.windows import SAMPLE_RATE

LEAD: Final = SAMPLE_RATE // 20
"""What is left of the quiet before the first audible sample: a soft consonant begins below what counts as audible."""
NATURAL: Final = SAMPLE_RATE
"""Quiet within speech that is passed on as it comes. What is beyond waits until speech goes on, or is never sent."""


@dataclass
class Silence:
    """One request's quiet. `trim`: only `LEAD` of the quiet before a chunk's first sound is passed on.

    `limit`: after so much quiet in a chunk no more speech is expected of it. Infinite: all quiet is passed on at once.
    `begun` says whether the chunk has made a sound, `heard` whether the request has. `quiet` counts samples since the
    chunk's last sound (or its start), `passed` the quiet ones at the end of all that was passed on.
    """

    trim: bool = True
    limit: float = inf
    begun: bool = False
    heard: bool = False
    quiet: int = 0
    passed: int = 0
    kept: bytes = b""

    @property
    def too_long(self) -> bool:
        """Whether the chunk has been silent for longer than speech is."""
        return self.quiet >= self.limit

    def feed(self, pcm: bytes, audible: tuple[int, int] | None) -> bytes:
        """The chunk's next samples, and where the first and the last audible one of them are -> what to send now.

        The first is not looked at once the chunk has begun.
        """
        size = len(pcm) // 2
        if audible is not None:
            pcm = self._opened(pcm, audible[0])
            self.begun = self.heard = True
            self.quiet = size - 1 - audible[1]
            return self._without_surplus(pcm)
        self.quiet += size
        if self.begun:
            return self._without_surplus(self.kept + pcm)
        if self.trim:
            self.kept = (self.kept + pcm)[-2 * LEAD :]
            return b""
        self.passed += size
        return pcm

    def next_chunk(self) -> None:
        """What was kept back is not sent: no speech came after it."""
        self.begun, self.quiet, self.kept = False, 0, b""

    def _opened(self, pcm: bytes, first: int) -> bytes:
        """A sound brings what was kept before it, but of a chunk's first quiet only the end."""
        if self.begun or not self.trim:
            return self.kept + pcm
        return (self.kept + pcm[: 2 * first])[-2 * LEAD :] + pcm[2 * first :]

    def _without_surplus(self, pcm: bytes) -> bytes:
        """Keeps back what lies beyond a pause of speech."""
        surplus = max(0, self.quiet - NATURAL) if self.limit < inf else 0
        sent = len(pcm) - 2 * surplus
        self.passed, self.kept = self.quiet - surplus, pcm[sent:]
        return pcm[:sent]
