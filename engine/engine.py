"""Engine: the asynchronous side in the server's process. Starts and watches the worker, submits, cancels, drains.

Nothing here imports torch. All methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import zmq
import zmq.asyncio

from engine.config import EngineConfig, SamplingParams
from engine.errors import (
    EngineOverloaded,
    EngineUnavailable,
    GenerationFailed,
    InvalidRequest,
)
from engine.messages import (
    Audio,
    Broken,
    Cancel,
    Failed,
    Finished,
    Loading,
    ModelInfo,
    Ready,
    Stop,
    ToEngine,
)
from engine.process import end_worker, messages, start_error, start_worker
from engine.request import generate
from engine.stream import SpeechStream, silent_stream
from engine.text import Normaliser, chunks

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0  # how long the worker may take to leave before it is killed
STEADY_SECONDS = 60.0  # a worker that lived this long wipes out the count of restarts

T = TypeVar("T")
Progress = Callable[[str, float], None]


class Engine:
    """Text in, PCM out. `start()` before anything else, `stop()` at the end."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._info: ModelInfo | None = None
        self._ready = False
        self._draining = False
        self._stopping = asyncio.Event()
        self._gave_up = asyncio.Event()
        self._streams: dict[int, SpeechStream] = {}
        self._next_id = 0
        self._mean_seconds = 5.0
        self._outbox: zmq.Socket | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def info(self) -> ModelInfo:
        """What is loaded. EngineUnavailable before the engine has been ready once."""
        if self._info is None:
            raise EngineUnavailable("the engine is still loading", retry_after=5.0)
        return self._info

    @property
    def ready(self) -> bool:
        """Whether a request would be taken now (if there is room)."""
        return self._ready and not self._draining

    @property
    def running(self) -> int:
        """Requests that hold a slot, or are about to."""
        return min(len(self._streams), self.config.max_concurrency)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._streams) - self.running

    async def start(self, progress: Progress | None = None) -> None:
        """Returns after a warm synthesis. CheckpointError, ConfigError and EngineUnavailable say why it cannot."""
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(started, progress or (lambda stage, done: None)))
        await asyncio.wait({started, self._supervisor}, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            # The supervisor itself broke (no socket, no process, a failing callback); its error says how.
            self._supervisor.result()
            raise EngineUnavailable("the engine has been stopped")
        await started

    def submit(
        self, text: str, voice: str, params: SamplingParams | None = None, normaliser: Normaliser | None = None
    ) -> SpeechStream:
        """Takes a request at once or refuses it: InvalidRequest, EngineOverloaded, EngineUnavailable.

        The text is put into words first, by `normaliser` or the usual one. Without any word it is a short silence.
        """
        if not self.ready or self._outbox is None:
            raise EngineUnavailable("the engine is not ready", retry_after=5.0)
        if voice not in self.info.voices:
            raise InvalidRequest("voice", f"unknown voice {voice!r}; known: {', '.join(self.info.voices)}")
        if not text.strip():
            raise InvalidRequest("input", "there is nothing to say in the input")
        pieces = chunks((normaliser or Normaliser())(text), self.info.chunk_chars)
        if not pieces:
            return silent_stream()
        if len(self._streams) >= self.config.max_concurrency + self.config.max_queue:
            raise EngineOverloaded(retry_after=self._retry_after())
        self._next_id += 1
        message = generate(self._next_id, pieces, voice, params or SamplingParams(), self.info, self.config)
        self._send(message)
        stream = SpeechStream(message.request_id, self._cancel)
        self._streams[message.request_id] = stream
        self._empty.clear()
        return stream

    async def drain(self, seconds: float) -> bool:
        """Takes no new requests and waits for the running ones; whether all of them ended in time."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)
        return not self._streams

    async def stop(self) -> None:
        """Ends the worker; what still runs fails."""
        self._ready = False
        self._stopping.set()
        if self._outbox is not None:
            with contextlib.suppress(EngineUnavailable):
                self._send(Stop())
        elif self._process is not None and self._process.returncode is None:
            # Still loading: nothing runs, and it would not look at a message for seconds.
            self._process.kill()
        if self._supervisor is not None:
            await asyncio.wait({self._supervisor}, timeout=STOP_SECONDS)
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
            await asyncio.wait({self._supervisor})

    async def wait_failed(self) -> None:
        """Returns when the worker has died too often and the engine has given up."""
        await self._gave_up.wait()

    # ---- the worker's life

    async def _supervise(self, started: asyncio.Future[None], progress: Progress) -> None:
        """Runs workers, one after another, until told to stop or until they die too often."""
        try:
            await self._run_workers(started, progress)
        finally:
            self._fail_streams("the engine has stopped")
            if not self._stopping.is_set():
                self._gave_up.set()

    async def _run_workers(self, started: asyncio.Future[None], progress: Progress) -> None:
        restarts = 0
        while not self._stopping.is_set():
            born = time.monotonic()
            error = await self._run_worker(started, progress)
            self._fail_streams(str(error))
            if not started.done():
                # It never was ready: starting it again would change nothing.
                started.set_exception(error)
                return
            if self._stopping.is_set():
                return
            restarts = 1 if time.monotonic() - born > STEADY_SECONDS else restarts + 1
            if restarts > self.config.max_restarts:
                log.error("the engine process died %d times in a row; giving up", restarts)
                return
            log.error("%s; restart %d of %d", error, restarts, self.config.max_restarts)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(0.5 * 2**restarts, 10.0))

    async def _run_worker(self, started: asyncio.Future[None], progress: Progress) -> Exception:
        """One worker from birth to death; -> why it ended."""
        with tempfile.TemporaryDirectory(prefix="lyre-") as folder:
            inbox, outbox = (f"ipc://{Path(folder) / name}" for name in ("in", "out"))
            context = zmq.asyncio.Context.instance()
            receiving = context.socket(zmq.PULL)
            sending = zmq.Context(context).socket(zmq.PUSH)
            sending.setsockopt(zmq.SNDHWM, 0)
            try:
                receiving.bind(inbox)
                sending.bind(outbox)
                return await self._watch(inbox, outbox, receiving, sending, started, progress)
            finally:
                self._ready, self._outbox = False, None
                receiving.close(linger=0)
                sending.close(linger=0)

    async def _watch(
        self,
        inbox: str,
        outbox: str,
        receiving: zmq.asyncio.Socket,
        sending: zmq.Socket,
        started: asyncio.Future[None],
        progress: Progress,
    ) -> Exception:
        process = await start_worker(self.config, outbox, inbox)
        self._process = process
        died = asyncio.create_task(process.wait())
        failure: Exception | None = None
        try:
            async for message in messages(receiving, died):
                match message:
                    case Loading():
                        progress(message.stage, message.done)
                    case Broken():
                        failure = start_error(message)
                    case Ready():
                        self._info, self._outbox, self._ready = message.info, sending, True
                        if not started.done():
                            started.set_result(None)
                    case _:
                        self._deliver(message)
        finally:
            await end_worker(process, STOP_SECONDS)
        return failure or EngineUnavailable(
            f"the engine process ended with status {process.returncode}", retry_after=10.0
        )

    # ---- requests

    def _deliver(self, message: Audio | Finished | Failed) -> None:
        stream = self._streams.get(message.request_id)
        if stream is None:
            return
        if isinstance(message, Audio):
            stream.feed(message.pcm, message.tokens)
            return
        if isinstance(message, Finished):
            stream.finish(message.reason, message.input_tokens, message.output_tokens)
            self._mean_seconds = 0.9 * self._mean_seconds + 0.1 * stream.age
        elif message.param is not None:
            stream.fail(InvalidRequest(message.param, message.message))
        else:
            stream.fail(GenerationFailed(message.message))
        self._forget(message.request_id)

    def _cancel(self, request_id: int) -> None:
        # The slot counts as taken until the worker says that it is free.
        if request_id in self._streams and self._outbox is not None:
            with contextlib.suppress(EngineUnavailable):
                self._send(Cancel(request_id))

    def _fail_streams(self, why: str) -> None:
        for place, request_id in enumerate(list(self._streams)):
            # Who was still in the queue has not broken anything, and may come again.
            queued = place >= self.config.max_concurrency
            error = EngineUnavailable(why, retry_after=5.0) if queued else GenerationFailed(why)
            self._streams[request_id].fail(error)
            self._forget(request_id)

    def _forget(self, request_id: int) -> None:
        del self._streams[request_id]
        if not self._streams:
            self._empty.set()

    def _retry_after(self) -> float:
        """Seconds until a place should be free, from how long requests have been taking."""
        return min(30.0, max(1.0, self._mean_seconds * (1 + self.waiting) / self.config.max_concurrency))

    def _send(self, message: ToEngine) -> None:
        assert self._outbox is not None
        try:
            self._outbox.send(msgspec.msgpack.encode(message), zmq.NOBLOCK)
        except zmq.Again as error:
            # Its end of the socket is gone: the process has died this very moment.
            raise EngineUnavailable("the engine process is gone", retry_after=5.0) from error
