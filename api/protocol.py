"""The HTTP/1.1 parser's own refusals, of what never becomes a request, in the envelope of all other errors."""

from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.errors import ApiError
from api.trace import identity, new_request_id

MAX_HEADERS: Final = 16 * 1024
"""Bytes of a request's line and headers. h11 counts them; uvicorn's faster parser takes any size."""


class Protocol(H11Protocol):
    """uvicorn's connection, with JSON instead of plain text as its 400."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = ApiError(400, msg).body().model_dump_json().encode()
            headers = {
                **identity(new_request_id()),
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
