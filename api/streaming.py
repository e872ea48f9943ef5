"""A response whose body is made while it is sent: it notices a client that left or stopped reading.

It never ends cleanly unless the audio is whole: what breaks after the first byte aborts the connection.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import ExitStack, aclosing
from typing import Any, TypeVar

from litestar.types import Receive, Scope, Send

from api.errors import ClientGone
from api.trace import Trace
from engine import EngineError, SpeechStream

log = logging.getLogger("lyre")

T = TypeVar("T")


class StreamAborted(Exception):
    """Raised into the web server, which then cuts the connection; the cause has been logged already."""


class SendStalled(Exception):
    """The client stopped reading for too long."""


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of `work`; ClientGone, with `work` cancelled, when the client leaves first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class SpeechResponse:
    """The ASGI answer 200 with `parts` as its body; closes `ends` however it ends.

    `ends` must cancel `stream` and give back whatever else the request holds.
    """

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        stream: SpeechStream,
        ends: ExitStack,
        headers: Mapping[str, str],
        trace: Trace,
        send_timeout: float,
    ) -> None:
        self.parts = parts
        self.stream = stream
        self.ends = ends
        self.headers = headers
        self.trace = trace
        self.send_timeout = send_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = "error"
        try:
            await unless_gone(self._send(send), receive)
            outcome = "ok"
        except ClientGone:
            outcome = "client_disconnect"
        except SendStalled:
            outcome = "stalled"
            raise StreamAborted("the client stopped reading") from None
        except EngineError as error:
            log.error("%s: broke off: %s", self.trace.request_id, error)
            raise StreamAborted("the speech broke off") from error
        except asyncio.CancelledError:
            outcome = "shutdown"
            raise
        finally:
            self.ends.close()
            self.trace.emit(200, outcome, self.stream.audio_seconds)

    async def _send(self, send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with aclosing(self.parts) as parts:
            async for part in parts:
                if part:
                    await self._send_body(send, part, more=True)
        # Before the client can know that this is the end: its next request may come at once.
        self.ends.close()
        await self._send_body(send, b"", more=False)

    async def _send_body(self, send: Send, body: bytes, more: bool) -> None:
        try:
            async with asyncio.timeout(self.send_timeout):
                await send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            raise SendStalled from None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
