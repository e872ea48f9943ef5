"""The engine's audio, signed 16-bit little-endian mono at 24 kHz in whole samples, and FFmpeg's frames of it."""

from typing import Final

import av

SAMPLE_RATE: Final = 24_000
SAMPLE_BYTES: Final = 2


def audio_frame(pcm: bytes, position: int) -> av.AudioFrame:
    """`pcm` (not empty) as a frame that begins `position` samples after the start."""
    frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // SAMPLE_BYTES, align=1)
    frame.sample_rate = SAMPLE_RATE
    frame.pts = position
    frame.planes[0].update(pcm)
    return frame


def samples_of(frame: av.AudioFrame) -> bytes:
    """The samples of an s16 mono frame, without the padding behind them."""
    return bytes(frame.planes[0])[: frame.samples * SAMPLE_BYTES]
