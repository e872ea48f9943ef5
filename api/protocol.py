"""One HTTP/1.1 connection: uvicorn's, with what it lacks against clients that are broken, odd or hostile."""

import asyncio
import logging
import re
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import h11
from litestar.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.connection import MAX_HEADERS, Connection
from api.crowd import Crowd, raise_descriptor_limit, room
from api.errors import ApiError
from api.settings import Settings
from api.trace import identity, new_request_id

REFUSED: Final = "refused"
"""In the state of a request whose body turned out to be no HTTP: it has been answered with a 400."""

_SLICE: Final = 2048
"""Bytes that are parsed at once; what is incomplete is looked at after each."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time."""
_ABSOLUTE: Final = re.compile(rb"https?://[^/]+(?P<path>/.*)?$", re.IGNORECASE)


class _Seldom(logging.Filter):
    """Lets one line about noise through in ten seconds: whoever scans the port would fill the disk."""

    _next, _more = 0.0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg != "Invalid HTTP request received.":
            return True
        now = time.monotonic()
        if now < self._next:
            self._more += 1
            return False
        if self._more:
            record.msg = f"{record.msg} {self._more} others since the last such line."
        self._next, self._more = now + 10, 0
        return True


_seldom = _Seldom()


def protocol(settings: Settings) -> Callable[..., asyncio.Protocol]:
    """What uvicorn makes a connection with. Also lets this process have as many descriptors as it is allowed."""
    logging.getLogger("uvicorn.error").addFilter(_seldom)
    most = room(settings.max_connections, raise_descriptor_limit())
    return partial(Protocol, header_timeout=settings.header_timeout, crowd=Crowd(most))


class Protocol(H11Protocol):
    """JSON instead of plain text as the 400 of what is no request; limits; a cut that HTTP/1.0 can see.

    A head may take `header_timeout` seconds from its first byte, and so may the rest of a body that was answered
    before it came. A connection with neither is closed as idle.
    """

    def __init__(self, *arguments: Any, header_timeout: float, crowd: Crowd, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = Connection()
        self._inner = self.app
        self.app = self._run
        self._crowd = crowd
        self._header_timeout = header_timeout
        self._clock: asyncio.TimerHandle | None = None
        self._head_begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Also starts the clock of an idle connection."""
        super().connection_made(transport)
        self._clock = self.loop.call_later(max(self.timeout_keep_alive, self._header_timeout), self._too_late)
        self._crowd.wait(self, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Also keeps the clock of the next request, from its first byte until its head is there."""
        for start in range(0, len(data), _SLICE):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + _SLICE])
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Also stops the clock."""
        self._stop_clock()
        self._crowd.leave(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Also: this connection waits again, unless its next request is there already."""
        self._crowd.wait(self, self.transport.abort)
        super().on_response_complete()
        if not self.transport.is_closing():
            self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = ApiError(400, msg).body().model_dump_json().encode()
            headers = {
                **identity(new_request_id()),
                "openai-processing-ms": "0",
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
            }
            for event in (
                h11.Response(status_code=400, headers=list(headers.items()), reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            if self.cycle is not None and not self.cycle.response_complete:
                # It has its answer. The route that reads the body is told why there is no more of it.
                self.scope.setdefault("state", {})[REFUSED] = True
                self.cycle.disconnected = True
        # Otherwise an answer is under way, and cutting it is all that can be said.
        self.transport.close()

    def _should_upgrade(self) -> bool:
        # Nothing but HTTP/1.1 is spoken here. uvicorn would advise, for each such request, to install a library.
        return False

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_clock()
            if not self.cycle.more_body:
                self._crowd.work(self)
                self._listen_on()
        elif self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self._rest()
        elif not self._head_begun:
            self._stop_clock()
            self._head_begun = True
            self._clock = self.loop.call_later(self._header_timeout, self._too_late)

    def _rest(self) -> None:
        """Nothing is under way. The rest of a refused body, just received, has ended uvicorn's clock of idle ones."""
        self._stop_clock()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _listen_on(self) -> None:
        """uvicorn reads nothing behind a complete request, not even that the client leaves."""
        if self.flow.read_paused and len(self.conn.trailing_data[0]) <= MAX_HEADERS:
            self.flow.resume_reading()

    def _stop_clock(self) -> None:
        self._head_begun = False
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _too_late(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        if absolute := _ABSOLUTE.match(scope["raw_path"]):
            # Proxies may write the whole URL; what is asked for is its path.
            scope["raw_path"] = absolute["path"] or b"/"
            scope["path"] = unquote(scope["raw_path"].decode("ascii"))
        try:
            await self._inner(scope, receive, send)
        except BaseException:
            # This broad because a cancelled answer is cut, too; it is raised again in any case.
            if scope["http_version"] == "1.0" and self.cycle.response_started and not self.transport.is_closing():
                # Such an answer ends with its connection: only a reset tells that it is not whole. Proxies speak 1.0.
                connection = self.transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise
