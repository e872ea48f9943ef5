"""A response whose body is made while it is sent: it notices a client that left or stopped reading.

It never ends cleanly unless the audio is whole: what breaks after the first byte aborts the connection.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import ExitStack, aclosing
from typing import Any, NoReturn, TypeVar

from litestar.types import Receive, Scope, Send

from api.errors import ClientGone, for_the_log
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
    return await _unless(work, _until_gone(receive))


async def _unless(work: Coroutine[Any, Any, T], *watches: Coroutine[Any, Any, NoReturn]) -> T:
    """The result of `work`, or, with `work` cancelled, the error that one of `watches` ends with before."""
    task, *watching = tasks = [asyncio.ensure_future(coroutine) for coroutine in (work, *watches)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            for watch in watching:
                if watch.done():
                    watch.result()
        return await task
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
        self._sending_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = "error"
        try:
            await _unless(self._send(send), _until_gone(receive), self._until_stalled())
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
        except Exception as error:  # noqa: BLE001
            # A bug, of whatever kind. Who catches it next would log its message, which may quote the user's text.
            log.error("%s: broke off: %s", self.trace.request_id, for_the_log(error))
            raise StreamAborted("the speech broke off") from None
        finally:
            self.ends.close()
            self.trace.emit(200, outcome)

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
        self._sending_since = time.monotonic()
        await send({"type": "http.response.body", "body": body, "more_body": more})
        self._sending_since = None

    async def _until_stalled(self) -> NoReturn:
        """One clock for all sends of the answer: one for each would cost as much as the sends themselves."""
        while True:
            now = time.monotonic()
            left = (self._sending_since or now) + self.send_timeout - now
            if left <= 0:
                raise SendStalled
            await asyncio.sleep(left)


async def _until_gone(receive: Receive) -> NoReturn:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientGone
