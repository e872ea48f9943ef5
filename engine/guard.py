"""Guard: what of each stream's new audio is sent, and whether its chunk goes on. For all streams of a frame at once.

Nothing that may be speech is held back: a chunk is ended where the model has stopped speaking the text.
"""

from __future__ import annotations

from math import inf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.pauses import AUDIBLE
from engine.repetition import Repetition
from engine.scheduler import FrameResult
from engine.sequence import FinishReason
from engine.silence import Silence
from engine.windows import SAMPLE_RATE, SAMPLES_PER_FRAME

TAIL: Final = 256
"""Samples at a piece's end that are looked at first."""
FADE: Final = SAMPLE_RATE // 50
"""A sound that is cut off dies away over so many samples."""

Heard = tuple[bytes, FinishReason | None]
"""What to send of a stream's new audio, and why its chunk is to be ended, if it is."""


class Guard:
    """`trim`: the quiet before a chunk's first sound is shortened. `max_silence`: so many seconds of quiet end a chunk;
    0: none do. `loops`: a chunk that turns in a circle is ended. `soundless`: a request may be without any sound.
    """

    def __init__(
        self, slots: int, trim: bool = True, max_silence: float = 2.5, loops: bool = True, soundless: bool = False
    ) -> None:
        self._trim, self._limit = trim, round(max_silence * SAMPLE_RATE) or inf
        self._repetition = Repetition(slots) if loops else None
        self._soundless = soundless

    def silence(self) -> Silence:
        """For a new request."""
        return Silence(self._trim, self._limit, heard=self._soundless)

    def hear(self, results: list[FrameResult], codes: NDArray[np.int32], pcm: list[bytes]) -> list[Heard]:
        """A frame of each stream, all in slots of their own: its codes [B, 7], and the audio that it made ready."""
        turning = self._turning(results, codes)
        heard: list[Heard] = []
        silent: list[int | None] = []
        for result, piece, last, turns in zip(results, pcm, audible_ends(pcm), turning, strict=True):
            silence = result.sequence.silence
            reason: FinishReason | None = None
            if last < 0:
                silent.append(result.sequence.slot)
                piece = silence.feed(piece, None)
            elif silence.begun and not silence.kept:
                # What `feed` would do, for the many that are in the middle of speech.
                silence.quiet = silence.passed = len(piece) // 2 - 1 - last
            else:
                piece = silence.feed(piece, (audible_start(piece), last))
            if silence.too_long and not result.last:
                reason = FinishReason.SILENCE
            elif turns and last >= 0 and not result.last:
                piece, reason = faded(piece), FinishReason.REPETITION
            heard.append((piece, reason))
        if self._repetition and silent:
            self._repetition.forgive(np.array(silent))
        return heard

    def _turning(self, results: list[FrameResult], codes: NDArray[np.int32]) -> list[bool]:
        """For each stream whether it turns in a circle; the codes of one that has ended mean nothing."""
        turning = [False] * len(results)
        rows = [row for row, result in enumerate(results) if result.spoken]
        if self._repetition and rows:
            slots = np.array([results[row].sequence.slot for row in rows])
            frames = np.array([results[row].sequence.frames for row in rows], np.int32)
            circling = self._repetition.hear(slots, frames, codes[rows, 0])
            for found in np.flatnonzero(circling).tolist():
                turning[rows[found]] = True
        return turning


def audible_ends(pcm: list[bytes]) -> list[int]:
    """The position of the last audible sample of each piece; -1 of one without any."""
    ends = [-1] * len(pcm)
    left = [row for row, piece in enumerate(pcm) if piece]
    # In the middle of speech the first look is enough, and nearly all other pieces are a frame long.
    for width in (TAIL, SAMPLES_PER_FRAME):
        alike = [row for row in left if len(pcm[row]) >= 2 * width]
        for row, end in zip(alike, _ends([pcm[row] for row in alike], width), strict=True):
            ends[row] = end
        left = [row for row in left if ends[row] < 0 and len(pcm[row]) != 2 * width]
    for row in left:
        ends[row] = _ends([pcm[row]], len(pcm[row]) // 2)[0]
    return ends


def _ends(pcm: list[bytes], width: int) -> list[int]:
    """The same, where only the last `width` samples of each are looked at; none is shorter."""
    tails = np.frombuffer(b"".join([piece[-2 * width :] for piece in pcm]), "<i2").reshape(-1, width)
    loud = _loud(tails)
    quiet = np.where(loud.any(1), loud[:, ::-1].argmax(1), -1)
    return [
        len(piece) // 2 - 1 - behind if behind >= 0 else -1 for piece, behind in zip(pcm, quiet.tolist(), strict=True)
    ]


def audible_start(piece: bytes) -> int:
    """The position of the first audible sample; there is one."""
    return int(_loud(np.frombuffer(piece, "<i2")).argmax())


def faded(piece: bytes) -> bytes:
    """The piece with an end that does not click."""
    samples = np.frombuffer(piece, "<i2").astype(np.float32)
    end = samples[-FADE:]
    end *= np.linspace(1, 0, len(end), dtype=np.float32)
    return samples.astype("<i2").tobytes()


def _loud(samples: NDArray[np.int16]) -> NDArray[np.bool_]:
    # One comparison for both signs: what is within the limits moves to 0 and more, all else lies beyond as unsigned.
    return (samples + np.int16(AUDIBLE)).view(np.uint16) > 2 * AUDIBLE
