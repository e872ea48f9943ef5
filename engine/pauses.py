"""Quiet between chunks: only what the model's own silence at a chunk's end lacks. Pure arithmetic on s16le mono PCM."""

from __future__ import annotations

from array import array
from typing import Final

from engine.windows import SAMPLE_RATE

AUDIBLE: Final = 327  # of 32767: 40 dB below full scale
EMPTY_SECONDS: Final = 0.3
BLOCK: Final = 256  # samples that are looked at together


def trailing_quiet(pcm: bytes, before: int) -> int:
    """How many samples the audio has been silent for after `pcm`; `before` it, for so many."""
    samples = array("h", pcm)
    for end in range(len(samples), 0, -BLOCK):
        block = samples[max(0, end - BLOCK) : end]
        # In the middle of speech the first look is enough.
        if max(block) > AUDIBLE or min(block) < -AUDIBLE:
            return len(samples) - end + next(i for i, sample in enumerate(reversed(block)) if abs(sample) > AUDIBLE)
    return before + len(samples)


def pause(seconds: float, quiet: int) -> bytes:
    """The silence that makes `quiet` samples of it `seconds` long; nothing when they are enough."""
    return bytes(2 * max(0, round(seconds * SAMPLE_RATE) - quiet))


def empty_speech() -> bytes:
    """What a text without a word sounds like."""
    return bytes(2 * round(EMPTY_SECONDS * SAMPLE_RATE))
