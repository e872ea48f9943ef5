"""The two sockets between the server's process and an engine process, as each side holds them.

A ZeroMQ frame to the engine is one message; a frame from it is a list: all that one turn of its loop has to say.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import zmq

from engine.errors import EngineUnavailable
from engine.messages import FromEngine, ToEngine

LAST_WORDS_SECONDS = 0.2  # what a dead worker sent last may still be on its way through the socket


class WorkerLink:
    """The engine process's side."""

    def __init__(self, inbox: str, outbox: str) -> None:
        context = zmq.Context.instance()
        self._in, self._out = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        self._out.setsockopt(zmq.SNDHWM, 0)
        # What was sent last still goes out when the process ends.
        self._out.setsockopt(zmq.LINGER, 2000)
        self._in.connect(inbox)
        self._out.connect(outbox)
        self._decoder = msgspec.msgpack.Decoder(ToEngine)
        self._encoder = msgspec.msgpack.Encoder()

    def send(self, messages: list[FromEngine]) -> None:
        """All at once, in this order. Never blocks: the server's process always reads."""
        self._out.send(self._encoder.encode(messages))

    def receive(self, patience: float | None) -> list[ToEngine]:
        """All messages that are there; waits so many seconds for the first, None: as long as it takes."""
        messages: list[ToEngine] = []
        wait = None if patience is None else math.ceil(1000 * patience)
        while self._in.poll(0 if messages else wait):
            messages.append(self._decoder.decode(self._in.recv()))
        return messages

    def close(self) -> None:
        """As the end of the process does it."""
        self._in.close()
        self._out.close()

    def last_words(self) -> None:
        """Closes it for good and waits, LINGER at most, until all has gone out that was sent."""
        self.close()
        zmq.Context.instance().term()


class ServerLink:
    """The server's side, made before the worker; `folder` is for its sockets. Belongs to the running event loop."""

    def __init__(self, folder: Path) -> None:
        context = zmq.Context.instance()
        self._in, self._out = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        self._out.setsockopt(zmq.SNDHWM, 0)
        self._arrived = asyncio.Event()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(list[FromEngine])
        self.worker_inbox, self.worker_outbox = (f"ipc://{folder / name}" for name in ("out", "in"))
        # A plain socket and its file descriptor: zmq.asyncio takes futures and turns of the loop for each frame.
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._in.fileno(), self._arrived.set)
        try:
            self._in.bind(self.worker_outbox)
            self._out.bind(self.worker_inbox)
        except zmq.ZMQError:
            self.close()
            raise

    def send(self, message: ToEngine) -> None:
        """Never blocks. EngineUnavailable when the worker is gone."""
        try:
            self._out.send(self._encoder.encode(message), zmq.NOBLOCK)
        except zmq.Again as error:
            # Its end of the socket is gone: the process has died this very moment.
            raise EngineUnavailable("the engine process is gone", retry_after=5.0) from error

    def unread(self) -> bool:
        """Whether there is something that `batches` has not come to yet."""
        news = bool(self._in.getsockopt(zmq.EVENTS) & zmq.POLLIN)
        if news:
            # The descriptor tells of it once: whoever looks has to pass it on.
            self._arrived.set()
        return news

    async def batches(self, died: asyncio.Task[int]) -> AsyncIterator[list[FromEngine]]:
        """What the worker sends, until it has `died` (or that was cancelled) and its last words are read."""
        died.add_done_callback(lambda _: self._arrived.set())
        while True:
            # The descriptor tells of news only to those who have read everything before.
            self._arrived.clear()
            while (frame := self._receive()) is not None:
                yield self._decoder.decode(frame)
            try:
                await asyncio.wait_for(self._arrived.wait(), LAST_WORDS_SECONDS if died.done() else None)
            except TimeoutError:
                return

    def close(self) -> None:
        """Drops what has not been sent."""
        self._loop.remove_reader(self._in.fileno())
        self._in.close(linger=0)
        self._out.close(linger=0)

    def _receive(self) -> bytes | None:
        try:
            return self._in.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None
