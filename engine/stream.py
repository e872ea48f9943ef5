"""SpeechStream: the audio of one request, as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from engine.errors import EngineError
from engine.pauses import empty_speech

BYTES_PER_SECOND = 48_000  # s16le mono at 24 kHz


class SpeechStream:
    """An asynchronous iterator over s16le mono 24 kHz PCM, whole samples in each piece.

    Iterating raises GenerationFailed when the request breaks (what came before is incomplete), EngineUnavailable when
    the engine died while it was queued, InvalidRequest when it turns out to be wrong. The figures are final when the
    iteration has ended.
    """

    def __init__(self, request_id: int, cancel: Callable[[int], None]) -> None:
        self.request_id = request_id
        self.finish_reason: str | None = None
        self.input_tokens = 0
        self.output_tokens = 0
        self.audio_seconds = 0.0
        self._cancel = cancel
        self._born = time.monotonic()
        self._pieces: asyncio.Queue[bytes | EngineError | None] = asyncio.Queue()
        self._done = False

    @property
    def age(self) -> float:
        """Seconds since the request was taken."""
        return time.monotonic() - self._born

    def cancel(self) -> None:
        """Stops the generation; the iteration ends. Does nothing when the request has ended."""
        if not self._done:
            self._done = True
            self.finish_reason = "cancelled"
            self._pieces.put_nowait(None)
            self._cancel(self.request_id)

    def __aiter__(self) -> SpeechStream:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._pieces.get()
        if isinstance(piece, bytes):
            return piece
        # The end stays the end, however often it is asked for.
        self._pieces.put_nowait(piece)
        if piece is None:
            raise StopAsyncIteration
        raise piece

    # ---- the engine's side

    def feed(self, pcm: bytes, tokens: int) -> None:
        """The next samples."""
        if not self._done:
            self.output_tokens = tokens
            self.audio_seconds += len(pcm) / BYTES_PER_SECOND
            self._pieces.put_nowait(pcm)

    def finish(self, reason: str, input_tokens: int, output_tokens: int) -> None:
        """All audio has been fed."""
        if not self._done:
            self._done = True
            self.finish_reason = reason
            self.input_tokens, self.output_tokens = input_tokens, output_tokens
            self._pieces.put_nowait(None)

    def fail(self, error: EngineError) -> None:
        """The request broke."""
        if not self._done:
            self._done = True
            self._pieces.put_nowait(error)


def silent_stream() -> SpeechStream:
    """The speech of a text without a word: complete already, a moment of silence, no tokens."""
    stream = SpeechStream(0, lambda request_id: None)
    stream.feed(empty_speech(), 0)
    stream.finish("stop", 0, 0)
    return stream
