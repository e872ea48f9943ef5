"""Quiet between chunks: only what the model's own silence at a chunk's end lacks. Pure arithmetic on s16le mono PCM."""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.windows import SAMPLE_RATE

AUDIBLE: Final = 327  # of 32767: 40 dB below full scale
EMPTY_SECONDS: Final = 0.3


def trailing_quiet(pcm: bytes, before: int) -> int:
    """How many samples the audio has been silent for after `pcm`; `before` it, for so many."""
    samples = np.frombuffer(pcm, "<i2")
    if samples.size and abs(int(samples[-1])) > AUDIBLE:
        return 0  # in the middle of speech the first look is enough
    loud = np.flatnonzero((samples > AUDIBLE) | (samples < -AUDIBLE))
    return int(samples.size - 1 - loud[-1]) if loud.size else before + samples.size


def pause(seconds: float, quiet: int) -> bytes:
    """The silence that makes `quiet` samples of it `seconds` long; nothing when they are enough."""
    return bytes(2 * max(0, round(seconds * SAMPLE_RATE) - quiet))


def empty_speech() -> bytes:
    """What a text without a word sounds like."""
    return bytes(2 * round(EMPTY_SECONDS * SAMPLE_RATE))
