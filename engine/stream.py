"""SpeechStream: the audio of one request, as it comes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from engine.errors import EngineError
from engine.pauses import empty_speech
from engine.tally import Tally
from engine.timings import BYTES_PER_SECOND, Timings


class SpeechStream:
    """An asynchronous iterator over s16le mono 24 kHz PCM, whole samples in each piece; for one reader.

    Iterating raises GenerationFailed when the request breaks (what came before is incomplete), EngineUnavailable when
    the engine died before it was heard, QueueTimeout when it waited too long for a slot, InvalidRequest when it turns
    out to be wrong. The figures and `timings` are final when the iteration has ended.
    """

    def __init__(self, request_id: int, cancel: Callable[[int], None], tally: Tally | None = None) -> None:
        self.request_id = request_id
        self.finish_reason: str | None = None
        self.input_tokens = 0
        self.output_tokens = 0
        self.audio_seconds = 0.0
        self.timings = Timings(tally)
        self._cancel = cancel
        # Not an asyncio.Queue: with hundreds of streams its share of the server's time would be felt.
        self._pieces: deque[bytes] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._error: EngineError | None = None
        self._done = False

    @property
    def age(self) -> float:
        """Seconds since the request was taken."""
        return time.monotonic() - self.timings.taken

    def cancel(self) -> None:
        """Stops the generation; the iteration ends. Does nothing when the request has ended."""
        if not self._done:
            self._end("cancelled")
            self._cancel(self.request_id)

    def __aiter__(self) -> SpeechStream:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            # The end stays the end, however often it is asked for.
            if self._error is not None:
                raise self._error
            if self._done:
                raise StopAsyncIteration
            if self._waiting is not None:
                raise RuntimeError("two readers of one stream")
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return self._pieces.popleft()

    # ---- the engine's side

    def begin(self) -> None:
        """The request has got its slot."""
        if not self._done:
            self.timings.start()

    def feed(self, pcm: bytes, tokens: int) -> None:
        """The next samples."""
        if not self._done:
            self.timings.audio(pcm)
            self.output_tokens = tokens
            self.audio_seconds += len(pcm) / BYTES_PER_SECOND
            self._pieces.append(pcm)
            self._wake()

    def finish(self, reason: str, input_tokens: int, output_tokens: int) -> None:
        """All audio has been fed."""
        if not self._done:
            self.input_tokens, self.output_tokens = input_tokens, output_tokens
            self._end(reason)

    def fail(self, error: EngineError, reason: str | None = None) -> None:
        """The request broke; `reason` where the engine's process gave one."""
        if not self._done:
            self._error = error
            self._end(reason)

    def _end(self, reason: str | None) -> None:
        self._done = True
        self.finish_reason = reason
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def silent_stream() -> SpeechStream:
    """The speech of a text without a word: complete already, a moment of silence, no tokens."""
    stream = SpeechStream(0, lambda request_id: None)
    stream.begin()
    stream.feed(empty_speech(), 0)
    stream.finish("stop", 0, 0)
    return stream
