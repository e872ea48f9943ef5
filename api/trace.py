"""One request's identity and what became of it: the x-request-id, the clock, and one JSON log line without text."""

import json
import logging
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope

log = logging.getLogger("lyre.requests")

OPENAI_VERSION: Final = "2020-10-01"

_EXPOSED: Final = ", ".join(
    [
        "x-request-id",
        "openai-processing-ms",
        "openai-version",
        "retry-after",
        "x-should-retry",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ]
)
"""What a script of another origin may read."""

# A proxy's own id is worth keeping; anything that could forge a line of a log is not an id.
_ACCEPTED_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@dataclass(slots=True)
class Trace:
    """What is known about a request so far; times are of the monotonic clock."""

    request_id: str
    started: float = field(default_factory=time.monotonic)
    voice: str | None = None
    format: str | None = None
    ttfa: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """Headers that the response carries whatever it becomes."""

    @property
    def elapsed(self) -> float:
        """Seconds since the request was first seen."""
        return time.monotonic() - self.started

    def emit(self, status: int, outcome: str, audio_seconds: float = 0.0) -> None:
        """Write the request's log line."""
        line = {
            "id": self.request_id,
            "status": status,
            "outcome": outcome,
            "voice": self.voice,
            "format": self.format,
            "ttfa_ms": None if self.ttfa is None else round(self.ttfa * 1000, 1),
            "audio_s": round(audio_seconds, 3),
            "rtf": round(self.elapsed / audio_seconds, 3) if audio_seconds else None,
        }
        log.info("%s", json.dumps(line))


def trace_of(scope: Scope) -> Trace:
    """The request's Trace, made at the first call."""
    state: dict[str, Any] = scope["state"]
    if "trace" not in state:
        state["trace"] = Trace(_request_id(scope["headers"]))
    return state["trace"]


async def mark_response(message: Message, scope: Scope) -> None:
    """Litestar's before_send hook: the headers that every response carries."""
    if message["type"] != "http.response.start" or scope["type"] != "http":
        return
    trace = trace_of(scope)
    headers = MutableScopeHeaders.from_message(message)
    headers.update(identity(trace.request_id) | trace.headers)
    headers["openai-processing-ms"] = str(round(trace.elapsed * 1000))


def identity(request_id: str) -> dict[str, str]:
    """The headers of every response that do not depend on its request."""
    return {
        "x-request-id": request_id,
        "openai-version": OPENAI_VERSION,
        "access-control-expose-headers": _EXPOSED,
        "x-content-type-options": "nosniff",
    }


def new_request_id() -> str:
    """As OpenAI writes them."""
    return f"req_{secrets.token_hex(16)}"


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if _ACCEPTED_ID.fullmatch(given) else new_request_id()
