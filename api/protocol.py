"""One HTTP/1.1 connection: uvicorn's, with what it lacks against clients that are broken, odd or hostile."""

import asyncio
import socket
import struct
from typing import Any, Final

import h11
from litestar.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.errors import ApiError
from api.trace import identity, new_request_id

MAX_HEADERS: Final = 16 * 1024
"""Bytes of a request's line and headers. h11 counts them; uvicorn's faster parser takes any size."""
HEAD_SECONDS: Final = 60.0
"""How long a connection may take to send them. uvicorn stops its own clock at the first byte."""

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time."""


class Connection(h11.Connection):
    """h11's, with a short way for the pieces of a chunked answer, which takes a tenth of the time."""

    _in_chunks = False

    def send(self, event: h11.Event) -> bytes | None:
        """The event's bytes, the same as h11's."""
        if self._in_chunks and type(event) is h11.Data and self.our_state is h11.SEND_BODY:
            return b"%x\r\n%b\r\n" % (len(event.data), event.data) if event.data else b""
        output = super().send(event)  # type: ignore[call-overload]
        chunked = b"\r\ntransfer-encoding: chunked\r\n"
        self._in_chunks = type(event) is h11.Response and chunked in (output or b"").lower()
        return output


class Protocol(H11Protocol):
    """JSON instead of plain text as the 400 of what is no request; a time limit; a cut that HTTP/1.0 can see."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = Connection(h11.SERVER, self.config.h11_max_incomplete_event_size or MAX_HEADERS)
        self._inner = self.app
        self.app = self._run
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Also starts the clock of the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Also keeps the clock of the next request, from its first byte until its head is there."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Also stops the clock."""
        self._stop_clock()
        super().connection_lost(exc)

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
        # Otherwise an answer is under way, and cutting it is all that can be said.
        self.transport.close()

    def _should_upgrade(self) -> bool:
        # Nothing but HTTP/1.1 is spoken here. uvicorn would advise, for each such request, to install a library.
        return False

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_clock()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _stop_clock(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._inner(scope, receive, send)
        except BaseException:
            # This broad because a cancelled answer is cut, too; it is raised again in any case.
            if scope["http_version"] == "1.0" and self.cycle.response_started and not self.transport.is_closing():
                # Such an answer ends with its connection: only a reset tells that it is not whole. Proxies speak 1.0.
                connection = self.transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise
