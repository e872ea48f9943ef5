"""Assigned: the requests that one engine process has, in slots and in its queue, in the order of their coming."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.messages import Audio, Failed, Finished
from engine.request import Request

_FADE = 0.1  # how much of the mean the latest request replaces


class Assigned:
    """`on_heard(request)` is called when a request's audio begins. `idle` is set while there are none."""

    def __init__(self, on_heard: Callable[[Request], None]) -> None:
        self.idle = asyncio.Event()
        self.idle.set()
        self._on_heard = on_heard
        self._requests: dict[int, Request] = {}
        self._mean_seconds = 5.0

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._requests

    def add(self, request: Request) -> None:
        """The process was told of it."""
        self._requests[request.message.request_id] = request
        self.idle.clear()

    def begin(self, request_id: int) -> None:
        """It has its slot."""
        if request := self._requests.get(request_id):
            request.stream.begin()

    def hear(self, message: Audio) -> None:
        """The next of its audio."""
        if request := self._requests.get(message.request_id):
            if not request.stream.audio_seconds:
                self._on_heard(request)
            request.stream.feed(message.pcm, message.tokens)

    def finish(self, message: Finished | Failed, slots: int, patience: float) -> None:
        """The last word on it; `patience` as it was set."""
        request = self._requests.pop(message.request_id, None)
        if request is None:
            return
        request.end(message, patience, self.retry_after(slots))
        if isinstance(message, Finished) and message.reason != "expired":
            self._mean_seconds += _FADE * (request.stream.age - self._mean_seconds)
        if not self._requests:
            self.idle.set()

    def retry_after(self, slots: int) -> float:
        """Seconds until a place should be free, from how long requests have been taking."""
        waiting = max(0, len(self) - slots)
        return min(30.0, max(1.0, self._mean_seconds * (1 + waiting) / slots))

    def lose(self) -> list[Request]:
        """All of them; from now on there are none."""
        lost = list(self._requests.values())
        self._requests.clear()
        self.idle.set()
        return lost
