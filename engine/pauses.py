"""Quiet between chunks: only what the model's own silence at a chunk's end lacks. Pure arithmetic on s16le mono PCM."""

from __future__ import annotations

from typing import Final

from engine.windows import SAMPLE_RATE

AUDIBLE: Final = 327  # of 32767: 40 dB below full scale
EMPTY_SECONDS: Final = 0.3


def pause(seconds: float, quiet: int) -> bytes:
    """The silence that makes `quiet` samples of it `seconds` long; nothing when they are enough."""
    return bytes(2 * max(0, round(seconds * SAMPLE_RATE) - quiet))


def empty_speech() -> bytes:
    """What a text without a word sounds like."""
    return bytes(2 * round(EMPTY_SECONDS * SAMPLE_RATE))
