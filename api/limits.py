"""Limits per caller, requests a minute and requests at once, both off by default. What goes beyond is a 429.

A caller is a key or, where no keys are asked for, a client address. The counts live in this process only.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from api.errors import ApiError, come_back

_FORGET_AT: Final = 1024
"""Callers that are remembered before those with nothing to remember are looked for."""


class Limits:
    """Counts what each caller has asked for. 0 is no limit.

    The rate is a bucket of `per_minute` requests that fills up evenly, as OpenAI's does: of one number per caller, the
    time at which the bucket is full again.
    """

    def __init__(self, per_minute: int, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._at_once = at_once
        self._clock = clock
        self._full_at: dict[str, float] = {}
        self._forget_at = _FORGET_AT
        self._running: Counter[str] = Counter()

    def count(self, caller: str, headers: dict[str, str]) -> None:
        """Take one request from the bucket and write the x-ratelimit headers; raises the 429."""
        if not self._per_minute:
            return
        now = self._clock()
        interval = 60 / self._per_minute
        until_full = max(self._full_at.get(caller, now) - now, 0.0)
        wait = until_full + interval - 60
        # A hair of tolerance: 60 / n, added n times, is not always 60.
        if wait < 1e-6:
            until_full += interval
            self._full_at[caller] = now + until_full
            self._forget(now)
        headers |= {
            "x-ratelimit-limit-requests": str(self._per_minute),
            "x-ratelimit-remaining-requests": str(math.floor((60 - until_full) / interval + 1e-6)),
            "x-ratelimit-reset-requests": _duration(until_full),
        }
        if wait >= 1e-6:
            message = f"Rate limit reached: {self._per_minute} requests a minute. Please try again in {wait:.3g} s."
            raise _too_many(message, wait)

    @contextmanager
    def seat(self, caller: str) -> Iterator[None]:
        """One of the caller's requests at once, held inside the context; raises the 429."""
        if self._at_once and self._running[caller] >= self._at_once:
            message = f"Rate limit reached: {self._at_once} requests at once. Please wait until one of them has ended."
            raise _too_many(message, 1.0)
        self._running[caller] += 1
        try:
            yield
        finally:
            self._running[caller] -= 1
            if not self._running[caller]:
                del self._running[caller]

    def _forget(self, now: float) -> None:
        if len(self._full_at) > self._forget_at:
            self._full_at = {caller: full for caller, full in self._full_at.items() if full > now}
            self._forget_at = max(_FORGET_AT, 2 * len(self._full_at))


def _too_many(message: str, wait: float) -> ApiError:
    return ApiError(429, message, code="rate_limit_exceeded", outcome="rejected", headers=come_back(wait))


def _duration(seconds: float) -> str:
    """As OpenAI writes them: 120ms, 6.5s."""
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:.4g}s"
