"""One request's identity and what became of it: the x-request-id, the clock, the figures, and how it ended.

A speech request ends once, however it ends; whoever counts, logs or traces requests is a watcher, and is told then.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from litestar.datastructures import MutableScopeHeaders
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from engine import SpeechStream

OPENAI_VERSION: Final = "2020-10-01"

OUTCOMES: Final = (
    "ok",
    "client_disconnect",
    "rejected",
    "timeout",
    "stalled",
    "error",
    "invalid",
    "shutdown",
    "unauthorized",
)
"""How a request may end."""

_EXPOSED: Final = ", ".join(
    [
        "x-request-id",
        "openai-processing-ms",
        "openai-version",
        "retry-after",
        "server-timing",
        "x-should-retry",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ]
)
"""What a script of another origin may read."""

_PARENT: Final = (b"traceparent", b"tracestate")

# A proxy's own id is worth keeping; anything that could forge a line of a log is not an id.
_ACCEPTED_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@dataclass(slots=True)
class Trace:
    """What is known about a request so far; times are of the monotonic clock, `born` is the Unix time of `started`.

    `ttfa` are the seconds until its first audio was there to be sent, `duration` those until its end.
    """

    request_id: str
    started: float = field(default_factory=time.monotonic)
    born: float = field(default_factory=time.time)
    headers: dict[str, str] = field(default_factory=dict)
    """Headers that the response carries whatever it becomes."""
    parent: dict[str, str] = field(default_factory=dict)
    """The caller's own trace: the headers that tell of it."""
    watchers: Sequence[Callable[["Trace"], None]] = ()
    voice: str | None = None
    format: str | None = None
    chars: int | None = None
    sse: bool | None = None
    stream: SpeechStream | None = None
    ttfa: float | None = None
    status: int | None = None
    outcome: str | None = None
    duration: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the request was first seen."""
        return time.monotonic() - self.started

    @property
    def queue_seconds(self) -> float | None:
        """How long it waited for its slot."""
        return self.stream.timings.queue_seconds if self.stream else None

    @property
    def first_audible(self) -> float | None:
        """Seconds until a listener who plays from the first audio on heard the first sound."""
        if self.ttfa is None or self.stream is None:
            return None
        first, audible = self.stream.timings.first_audio, self.stream.timings.first_audible
        return None if first is None or audible is None else self.ttfa + audible - first

    @property
    def audio_seconds(self) -> float:
        """Speech generated, at its own speed."""
        return self.stream.audio_seconds if self.stream else 0.0

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work for a second of speech, from the slot to the last audio."""
        seconds = self.stream.timings.synthesis_seconds if self.stream else None
        return seconds / self.audio_seconds if seconds is not None and self.audio_seconds else None

    @property
    def server_timing(self) -> str:
        """The Server-Timing header, when the first audio is there: in ms, the queue, from the slot on, and in all."""
        total = self.elapsed if self.ttfa is None else self.ttfa
        timings = self.stream.timings if self.stream else None
        parts = {"total": total}
        if timings and timings.started is not None and timings.first_audio is not None:
            parts = {
                "queue": timings.started - timings.taken,
                "first_audio": timings.first_audio - timings.started,
                **parts,
            }
        return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in parts.items())

    def emit(self, status: int, outcome: str) -> None:
        """The request has ended. Only the first end counts: what comes later is about the same request."""
        if self.outcome is None:
            self.status, self.outcome, self.duration = status, outcome, self.elapsed
            for told in self.watchers:
                told(self)


def watched(app: ASGIApp) -> ASGIApp:
    """Litestar middleware of the speech route: whatever happens in it, the request has one end."""

    async def watch(scope: Scope, receive: Receive, send: Send) -> None:
        trace = trace_of(scope)
        trace.watchers = scope["litestar_app"].state.watchers
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            trace.emit(500, "shutdown")
            raise
        finally:
            trace.emit(500, "error")

    return watch


def trace_of(scope: Scope) -> Trace:
    """The request's Trace, made at the first call."""
    state: dict[str, Any] = scope["state"]
    if "trace" not in state:
        headers = scope["headers"]
        parent = {name.decode(): value.decode("latin-1") for name, value in headers if name in _PARENT}
        state["trace"] = Trace(_request_id(headers), parent=parent)
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
