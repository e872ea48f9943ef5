"""A speech request on a connection of its own: asked, read, left in any way, and exactly how its answer ended.

What a library for clients hides is what is looked at here: whether the framing said that this was all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal
from urllib.parse import urlsplit

import h11

SPEECH = "/v1/audio/speech"
READ_BYTES = 65_536
Leaving = Literal["close", "reset", "half"]


@dataclass
class Answer:
    """One answer. Times in seconds after `began` (monotonic); `ended` is None for what was left or never ended."""

    began: float = field(default_factory=perf_counter)
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    first: float | None = None
    """The first byte of the body."""
    ended: float | None = None
    clean: bool = False
    """Whether the framing said that this was all."""
    error: str = ""
    """How the connection broke, if it did."""


class Wire:
    """A connection for one request. Errors are OSError and h11.RemoteProtocolError (cut in the middle of an answer)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)

    @classmethod
    async def open(cls, url: str) -> Wire:
        """To http://host:port."""
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def send(self, data: bytes) -> None:
        """Any bytes, unchecked."""
        self._writer.write(data)
        await self._writer.drain()

    async def read(self, answer: Answer) -> bool:
        """Adds what comes next to `answer`; False when it is whole."""
        if self._http.our_state is h11.IDLE:
            # The parser has to believe that it asked.
            self._http.send(h11.Request(method="POST", target=SPEECH, headers=[("host", "x"), ("content-length", "0")]))
            self._http.send(h11.EndOfMessage())
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(READ_BYTES))
        if isinstance(event, h11.Response):
            answer.status = event.status_code
            answer.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        elif isinstance(event, h11.Data):
            if answer.first is None:
                answer.first = perf_counter() - answer.began
            answer.body += event.data
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("closed before an answer")
        return not isinstance(event, h11.EndOfMessage)

    def leave(self, how: Leaving = "close") -> None:
        """`close` ends both directions, `reset` throws the connection away, `half` ends only ours."""
        if how == "half":
            with contextlib.suppress(OSError):
                self._writer.write_eof()
            return
        if how == "reset":
            self._writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self._writer.transport.abort() if how == "reset" else self._writer.close()


def request(url: str, body: dict[str, Any], key: str | None = None) -> bytes:
    """The bytes that ask for speech."""
    data = json.dumps(body).encode()
    auth = f"authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {SPEECH} HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n{auth}"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def ask(url: str, body: dict[str, Any], answer: Answer | None = None, patience: float = 120.0) -> Answer:
    """One request, read to whatever end it takes. Raises nothing: what went wrong is in the answer.

    `answer` may be given, to be watched while it grows.
    """
    answer = Answer() if answer is None else answer
    wire = None
    try:
        async with asyncio.timeout(patience):
            wire = await Wire.open(url)
            await wire.send(request(url, body))
            while await wire.read(answer):
                pass
            answer.clean = True
    except (OSError, h11.RemoteProtocolError, TimeoutError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    finally:
        answer.ended = perf_counter() - answer.began
        if wire is not None:
            wire.leave()
    return answer


async def until_heard(answers: Iterable[Answer]) -> None:
    """Until each has begun, or has ended without a word."""
    for answer in answers:
        while not answer.body and answer.ended is None:
            await asyncio.sleep(0.01)


async def get(url: str, path: str, patience: float = 10.0) -> int:
    """The status of a GET on a connection of its own. OSError, TimeoutError; ValueError for what is no answer."""
    parts = urlsplit(url)
    async with asyncio.timeout(patience):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n\r\n".encode())
            line = (await reader.read(READ_BYTES)).split(b" ", 2)
        finally:
            writer.close()
    if len(line) < 3:
        raise ValueError("no answer")
    return int(line[1])
