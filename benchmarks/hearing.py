"""What is in an answer: decoded samples at 24 kHz, where they match a reference, and the pitch of the voice."""

from __future__ import annotations

import io
from dataclasses import dataclass

import av
import av.error
import numpy as np
from numpy.typing import NDArray

RATE = 24_000
DEMUXERS = {"mp3": "mp3", "opus": "ogg", "aac": "aac", "flac": "flac", "wav": "wav"}
AUDIBLE = 327  # of 32767
TAIL = RATE // 20
HOP, WINDOW = 120, 600  # of the pitch track: 5 and 25 ms
PERIODS = range(60, 400)  # samples: 400 down to 60 Hz

Samples = NDArray[np.float64]


def decoded(data: bytes, audio_format: str) -> Samples:
    """All that FFmpeg can decode of this beginning of an answer; empty when that is nothing yet."""
    if audio_format == "pcm":
        return np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(float)
    parts: list[Samples] = []
    try:
        with av.open(io.BytesIO(data), "r", format=DEMUXERS[audio_format]) as container:
            if not container.streams.audio:
                return np.zeros(0)
            for frame in container.decode(audio=0):
                samples = frame.to_ndarray().ravel().astype(float)
                # Lossy codecs decode to floats. Opus decodes at 48 kHz and has nothing above 12.
                scale = 32768 if frame.format.name.startswith("flt") else 1
                parts.append(samples[:: frame.sample_rate // RATE] * scale)
    except (av.error.FFmpegError, EOFError):
        pass  # the end of what has arrived, in the middle of a frame
    return np.concatenate(parts) if parts else np.zeros(0)


@dataclass(frozen=True)
class Match:
    """How a decoded answer compares with the reference: at `delay` samples, over all and over the last 50 ms."""

    delay: int
    correlation: float
    tail: float


def match(answer: Samples, reference: Samples) -> Match:
    """The best delay of at most half a second. The tail is the last that can be heard: noise below is the codec's."""
    size = 1 << (len(answer) + len(reference)).bit_length()
    products = np.fft.irfft(np.fft.rfft(answer, size) * np.conj(np.fft.rfft(reference, size)), size)
    delay = int(np.argmax(products[: RATE // 2]))
    end = int(np.nonzero(np.abs(reference) > AUDIBLE)[0][-1]) + 1
    tail = correlation(answer[delay + end - TAIL : delay + end], reference[end - TAIL : end])
    return Match(delay, correlation(answer[delay:], reference), tail)


def correlation(a: Samples, b: Samples) -> float:
    """1 for the same shape. What one of them lacks at its end counts as silence."""
    both = min(len(a), len(b))
    power = float(a @ a) * float(b @ b)
    return float(a[:both] @ b[:both]) / power**0.5 if power else 0.0


def pitch_track(wave: Samples) -> Samples:
    """Hertz for each 5 ms by YIN (de Cheveigné and Kawahara, 2002); nan where there is no voice."""
    count = max(0, (len(wave) - WINDOW - PERIODS.stop) // HOP)
    return np.array([_pitch(wave[k * HOP :][: WINDOW + PERIODS.stop]) for k in range(count)])


def pitch_ratio(spoken: Samples, original: Samples, speed: float) -> float:
    """The median of the new pitch by the old, over the moments where both have one.

    Medians of either alone would compare different moments: slow speech has more frames that count as voiced.
    """
    was, now = pitch_track(original), pitch_track(spoken)
    middle = (WINDOW + PERIODS.stop) / 2
    moments = ((np.arange(len(now)) * HOP + middle) * speed - middle) / HOP
    inside = (moments >= 0) & (moments <= len(was) - 1)
    ratios = now[inside] / was[np.rint(moments[inside]).astype(int)]
    return float(np.nanmedian(ratios))


def _pitch(wave: Samples) -> float:
    window = wave[:WINDOW]
    if window @ window < WINDOW * AUDIBLE**2:
        return float("nan")
    energy = np.concatenate([[0.0], np.cumsum(wave**2)])
    shifted = energy[WINDOW : WINDOW + PERIODS.stop] - energy[: PERIODS.stop]
    difference = shifted[0] + shifted - 2 * np.correlate(wave, window, "valid")[: PERIODS.stop]
    normal = difference * np.arange(PERIODS.stop) / np.maximum(np.cumsum(difference), 1e-9)
    low = np.nonzero(normal[PERIODS.start :] < 0.2)[0]
    if not len(low):
        return float("nan")
    period = int(low[0]) + PERIODS.start
    while period + 1 < PERIODS.stop and normal[period + 1] < normal[period]:
        period += 1
    return RATE / period
