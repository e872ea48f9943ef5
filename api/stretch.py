"""Speech faster or slower at its own pitch, as it comes; FFmpeg's atempo (WSOLA) does it.

About 60 ms of speech wait in it, twice that below half speed, where two filters follow each other.
"""

from collections.abc import Iterator
from typing import Final

import av
import av.error
from av.filter import Graph

from api.pcm import SAMPLE_BYTES, SAMPLE_RATE, audio_frame, samples_of

_PIECE: Final = 512 * SAMPLE_BYTES
"""atempo hands its output over when it has as much as its input's frame was long; short frames keep it short."""
_LEAST: Final = 16 * SAMPLE_BYTES
"""Shorter pieces wait for the next samples: atempo fails where a frame would become none."""
_REACH: Final = 4096 * SAMPLE_BYTES
"""Silence that pushes the last sample out of any chain of filters."""


class TimeStretch:
    """Makes s16 PCM 1 / `speed` times as long, to the sample. `speed` is 0.25 to 4; pieces may have any length."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._kept = b""
        self._taken = 0
        self._given = 0
        self._graph = Graph()
        # One atempo reaches down to 0.5; slower takes two of them.
        tempos = [0.5, speed / 0.5] if speed < 0.5 else [speed]
        source = self._graph.add_abuffer(sample_rate=SAMPLE_RATE, format="s16", layout="mono")
        filters = [self._graph.add("atempo", f"{tempo:f}") for tempo in tempos]
        self._graph.link_nodes(source, *filters, self._graph.add("abuffersink"))
        self._graph.configure()

    def push(self, pcm: bytes) -> bytes:
        """What of the new duration is ready after these samples."""
        stretched = b"".join(self._through(pcm))
        self._given += len(stretched) // SAMPLE_BYTES
        return stretched

    def flush(self) -> bytes:
        """The rest; the stretch is used up."""
        samples = self._taken + len(self._kept) // SAMPLE_BYTES
        rest = max(0, round(samples / self._speed) - self._given)
        # At its end atempo drops up to 25 ms. Silence behind the speech lets it drop that instead.
        return b"".join(self._through(bytes(_REACH)))[: rest * SAMPLE_BYTES]

    def _through(self, pcm: bytes) -> Iterator[bytes]:
        pcm, self._kept = self._kept + pcm, b""
        for start in range(0, len(pcm), _PIECE):
            piece = pcm[start : start + _PIECE]
            if len(piece) < _LEAST:
                self._kept = piece
                return
            self._graph.push(audio_frame(piece, self._taken))
            self._taken += len(piece) // SAMPLE_BYTES
            yield from self._ready()

    def _ready(self) -> Iterator[bytes]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(frame, av.AudioFrame)
            yield samples_of(frame)
