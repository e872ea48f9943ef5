"""Speech requests as a player hears them: pcm over HTTP/1.1, read from the socket with little work of our own.

The measuring client must not be what is slow: at hundreds of streams an HTTP library in Python is.
"""

from __future__ import annotations

import asyncio
import json
from array import array
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import httpx

BYTES_PER_SECOND = 48_000
AUDIBLE = 327  # of 32767: 1 % of full scale
STALL_SECONDS = 0.001  # a wait that counts


class AnswerError(Exception):
    """No speech, or not all of it: a status that is not 200, an empty answer, a cut connection."""


@dataclass(slots=True)
class Heard:
    """One request. Times in seconds from the moment it was due; `began` on the machine's monotonic clock."""

    began: float
    first: float = 0.0
    audible: float | None = None
    last: float = 0.0
    received: int = 0
    underruns: int = 0
    waited: float = 0.0
    """For how long a player that starts with the first bytes stands still, in all."""
    whole: bool = False
    """False when the benchmark itself stopped listening before the end."""

    def hear(self, pcm: bytes, now: float) -> None:
        """Bytes that came at `now` (monotonic)."""
        now -= self.began
        if not self.received:
            self.first = now
        else:
            late = now - self.first - self.waited - self.received / BYTES_PER_SECOND
            if late > STALL_SECONDS:
                self.underruns += 1
                self.waited += late
        self.received += len(pcm)
        self.last = now
        if self.audible is None and loud(pcm[(self.received - len(pcm)) % 2 :]):
            self.audible = now

    @property
    def audio(self) -> float:
        """Seconds of it."""
        return self.received / BYTES_PER_SECOND

    @property
    def rtf(self) -> float:
        """The real-time factor: time for the whole request over the audio's duration."""
        return self.last / self.audio


def loud(pcm: bytes) -> bool:
    """Whether a sample is above 1 % of full scale."""
    samples = array("h", pcm[: len(pcm) // 2 * 2])
    return bool(samples) and (max(samples) > AUDIBLE or min(samples) < -AUDIBLE)


@dataclass(slots=True)
class Window:
    """A stretch of monotonic time, and the bytes of audio that all ears of a process heard in it.

    With `last`, ears stop listening past its end, as soon as they have heard something.
    """

    begin: float = 0.0
    end: float = float("inf")
    last: bool = True
    received: int = 0

    @property
    def over(self) -> bool:
        """Whether nothing is to begin any more."""
        return self.last and perf_counter() >= self.end


class Ear(asyncio.Protocol):
    """A connection that is kept open for one request after another."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._heard = Heard(0.0)
        self._done: asyncio.Future[Heard] | None = None
        self._left = -1
        """Bytes of the current chunk that are still to come, with its CR LF; -1 before the head, 0 between chunks."""

    @property
    def free(self) -> bool:
        """Whether it can take a request."""
        return self._done is None and self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes, due: float) -> asyncio.Future[Heard]:
        """Sends a request; the result is what was heard, or AnswerError."""
        assert self._transport is not None
        self._heard, self._left = Heard(due), -1
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._done

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Part of asyncio's protocol."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio's protocol: an answer that is not whole by now never will be."""
        self._fail("the connection was cut")

    def data_received(self, data: bytes) -> None:
        """Part of asyncio's protocol."""
        now = perf_counter()
        self._buffer += data
        if self._left < 0 and not self._head():
            return
        before = self._heard.received
        while self._chunk(now):
            pass
        if self._window.begin <= now < self._window.end:
            self._window.received += self._heard.received - before
        elif self._window.over and self._heard.received and self._done is not None:
            self._end(whole=False)

    def close(self) -> None:
        """Hangs up; a running request fails."""
        if self._transport is not None:
            self._transport.abort()
        self._fail("the benchmark hung up")

    def _head(self) -> bool:
        # The last answer's final line may have come after it was told to be whole.
        head, found, rest = bytes(self._buffer).lstrip().partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 200") or b"transfer-encoding: chunked" not in head.lower():
            self._fail((head.partition(b"\r\n")[0] + b" " + rest[:300]).decode(errors="replace"))
            return False
        self._buffer[:] = rest
        self._left = 0
        return True

    def _chunk(self, now: float) -> bool:
        """Takes what is there of one chunk; whether there may be more to take."""
        buffer = self._buffer
        if not self._left:
            end = buffer.find(b"\r\n")
            if end < 0:
                return False
            size = int(buffer[:end], 16)
            del buffer[: end + 2]
            self._left = size + 2
            if not size:
                self._end(whole=True)
                return False
        taken = bytes(buffer[: self._left])
        del buffer[: self._left]
        payload = taken[: max(0, self._left - 2)]
        self._left -= len(taken)
        if payload:
            self._heard.hear(payload, now)
        return bool(buffer)

    def _end(self, whole: bool) -> None:
        heard, done, self._done = self._heard, self._done, None
        heard.whole, self._left = whole, -1
        self._buffer.clear()
        if not whole:
            assert self._transport is not None
            self._transport.abort()
        if done is None or done.done():
            return
        if heard.received:
            done.set_result(heard)
        else:
            done.set_exception(AnswerError("an answer without audio"))

    def _fail(self, why: str) -> None:
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_exception(AnswerError(why))
        if self._transport is not None:
            self._transport.abort()


class Server:
    """An address (http only), a key, and the connections to it that are free."""

    def __init__(self, url: str, key: str | None, window: Window, patience: float = 120.0) -> None:
        """`patience`: seconds for a whole request."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} is not the http:// address of a server")
        self._host, self._port = parts.hostname, parts.port or 80
        self._path = parts.path.rstrip("/")
        self._key, self._window, self._patience = key, window, patience
        self._free: list[Ear] = []

    async def speak(self, body: dict[str, Any], due: float | None = None) -> Heard:
        """One request for pcm; `due` is when it should have been sent (monotonic), now unless given. AnswerError."""
        request = self._request({"model": "tts-1", "voice": "tara", "response_format": "pcm", **body})
        due = perf_counter() if due is None else due
        try:
            ear = await self._ear()
        except OSError as error:
            raise AnswerError(f"no connection: {error}") from None
        try:
            async with asyncio.timeout(self._patience):
                heard = await ear.ask(request, due)
        except TimeoutError:
            raise AnswerError(f"not answered within {self._patience:g} s") from None
        finally:
            # Free for the next request, unless something is left of this one.
            if ear.free:
                self._free.append(ear)
            else:
                ear.close()
        return heard

    async def close(self) -> None:
        """Hangs up all connections."""
        for ear in self._free:
            ear.close()

    async def _ear(self) -> Ear:
        while self._free:
            if (ear := self._free.pop()).free:
                return ear
        loop = asyncio.get_running_loop()
        _, ear = await loop.create_connection(lambda: Ear(self._window), self._host, self._port)
        return ear

    def _request(self, body: dict[str, Any]) -> bytes:
        data = json.dumps(body).encode()
        key = f"authorization: Bearer {self._key}\r\n" if self._key else ""
        head = (
            f"POST {self._path}/v1/audio/speech HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n{key}"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


class LibraryServer:
    """The same through httpx, as most Python clients read: what a library adds to a single stream's times."""

    def __init__(self, url: str, key: str | None) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=120)

    async def speak(self, body: dict[str, Any], due: float | None = None) -> Heard:
        """One request for pcm. AnswerError."""
        heard = Heard(perf_counter() if due is None else due)
        asked = {"model": "tts-1", "voice": "tara", "response_format": "pcm", **body}
        try:
            async with self._client.stream("POST", "/v1/audio/speech", json=asked) as answer:
                if answer.status_code != 200:
                    raise AnswerError(f"{answer.status_code} {(await answer.aread())[:300].decode(errors='replace')}")
                async for part in answer.aiter_raw():
                    heard.hear(part, perf_counter())
        except httpx.HTTPError as error:
            raise AnswerError(str(error)) from None
        if not heard.received:
            raise AnswerError("an answer without audio")
        heard.whole = True
        return heard

    async def close(self) -> None:
        """Hangs up."""
        await self._client.aclose()
