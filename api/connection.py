"""The HTTP/1.1 of one connection: h11's, with a short way for answers and a short patience with requests.

h11 bounds what is not complete. What comes complete in one read may still cost seconds to parse, or mean one thing here
and another to a proxy.
"""

import re
from typing import Any, Final

import h11

MAX_HEADERS: Final = 16 * 1024
"""Bytes of a request's line and headers."""
MAX_LINES: Final = 128
"""Lines of them: h11 takes 10 us and more for each, while nothing else is done."""
MAX_CHUNKS: Final = 512
"""Chunks of a request's body, which cost as much; the largest body that is read is 128 KiB."""
MAX_CHUNK_HEAD: Final = 1024
"""Bytes of a chunk's size with its extensions, and of all that may follow the last chunk."""
MAX_RECEIVED: Final = 16 * 2**20
"""Bytes of a body that are received to throw them away, so that who sent too much can still read its answer."""

_HEAD_END: Final = re.compile(rb"\n\r?\n")


class Connection(h11.Connection):
    """h11's; raises its RemoteProtocolError also for what is too much, and for a body of two lengths."""

    _in_chunks = False
    _chunks = _received = 0

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEADERS)

    def send(self, event: h11.Event) -> bytes | None:
        """The event's bytes, the same as h11's; the pieces of a chunked answer take a tenth of the time."""
        if self._in_chunks and type(event) is h11.Data and self.our_state is h11.SEND_BODY:
            return b"%x\r\n%b\r\n" % (len(event.data), event.data) if event.data else b""
        output = super().send(event)  # type: ignore[call-overload]
        chunked = b"\r\ntransfer-encoding: chunked\r\n"
        self._in_chunks = type(event) is h11.Response and chunked in (output or b"").lower()
        return output

    def next_event(self) -> Any:
        """The next event, as h11 gives it."""
        if self.their_state is h11.IDLE:
            self._check_size(self.trailing_data[0])
        # While a body arrives, only the size of a chunk or what follows the last one can be incomplete.
        in_head = self.their_state is h11.IDLE
        self._max_incomplete_event_size = MAX_HEADERS if in_head else MAX_CHUNK_HEAD
        event: Any = super().next_event()
        if type(event) is h11.Request:
            self._chunks = self._received = 0
            _check(event)
        elif type(event) is h11.Data:
            self._received += len(event.data)
            self._chunks += event.chunk_start
            if self._received > MAX_RECEIVED or self._chunks > MAX_CHUNKS:
                raise h11.RemoteProtocolError("the body is too large, or in too many chunks")
        return event

    def _check_size(self, received: bytes) -> None:
        # Before it is parsed: a head that came in one read is never incomplete, whatever its size.
        end = _HEAD_END.search(received)
        size = end.end() if end else len(received)
        if size > MAX_HEADERS or received.count(b"\n", 0, size) > MAX_LINES:
            raise h11.RemoteProtocolError("the head of the request is too large")


def _check(request: h11.Request) -> None:
    """Refuses another protocol, and a body that two readers could end at two places: its rest would be a request."""
    if request.http_version not in (b"1.0", b"1.1"):
        raise h11.RemoteProtocolError("only HTTP/1.0 and HTTP/1.1 are spoken here")
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version != b"1.1"):
        raise h11.RemoteProtocolError("the length of the body is given twice, or in a way of another version of HTTP")
