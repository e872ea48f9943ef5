"""What a client received, as sound: decoded by FFmpeg and held against the text it should say."""

import io
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 24_000
FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}

SENTENCE = "The first words are heard before the last ones exist, whichever format was asked for."
LONG = "This is one of many sentences, and nobody will listen to all of them. " * 57
"""Minutes of speech: far from spoken when a test has heard its first words and what follows from that."""

_SLOWEST, _FASTEST = 8.0, 25.0
"""Characters a second of speech."""

_MARGIN = 0.5
"""Seconds of silence around speech that do not count as slow."""

_AUDIBLE = 0.02
"""RMS of full scale; speech is about 0.08, a codec's silence below 0.001."""


@dataclass(frozen=True)
class Sound:
    """Mono samples between -1 and 1."""

    samples: NDArray[np.floating]
    rate: int

    @property
    def seconds(self) -> float:
        """Its duration."""
        return len(self.samples) / self.rate

    @property
    def rms(self) -> float:
        """How loud it is on the whole."""
        return float(np.sqrt(np.mean(np.square(self.samples)))) if len(self.samples) else 0.0


def from_pcm(data: bytes) -> Sound:
    """16-bit little-endian mono at 24 kHz; half a sample is an error."""
    assert len(data) % 2 == 0
    return Sound(np.frombuffer(data, "<i2") / np.float32(32768), SAMPLE_RATE)


def decode(data: bytes, response_format: str = "") -> Sound:
    """Any format. FFmpeg finds out by itself which one it is; only pcm must be told."""
    if response_format == "pcm":
        return from_pcm(data)
    with av.open(io.BytesIO(data), "r") as container:
        rate = container.streams.audio[0].rate
        resampler = av.AudioResampler("flt", "mono", rate)
        parts = [
            resampled.to_ndarray().reshape(-1)
            for frame in container.decode(audio=0)
            for resampled in resampler.resample(frame)
        ]
    return Sound(np.concatenate(parts).astype(np.float32), rate)


def assert_speaks(sound: Sound, text: str) -> None:
    """It is audible, and as long as somebody needs who says `text`."""
    assert sound.rms > _AUDIBLE
    assert len(text) / _FASTEST < sound.seconds < len(text) / _SLOWEST + _MARGIN


def assert_lasts(sound: Sound, seconds: float) -> None:
    """The duration is right within 2 %, or within the frame that a codec of 1,152 samples pads and delays."""
    assert abs(sound.seconds - seconds) < max(0.02 * seconds, 0.1)
