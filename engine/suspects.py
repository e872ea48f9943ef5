"""Suspects: what was about to be spoken when an engine process was lost, for a request that kills may come again.

Texts are remembered as keyed digests, for some minutes, in this process only.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence

import msgspec

from engine.messages import Generate

MEMORY_SECONDS = 600.0
LOSSES = 3  # at so many, each within the memory of the one before, and not heard in between, a text is the cause


class Suspects:
    """Tells a text that kills from one that is there at every loss because it always is: that one is heard, too."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._seen: dict[bytes, tuple[int, float]] = {}

    def note(self, requests: Sequence[Generate]) -> list[bool]:
        """A process was lost with these; -> for each, whether its text is to be taken for the cause."""
        now = self._clock()
        self._seen = {digest: seen for digest, seen in self._seen.items() if now - seen[1] < MEMORY_SECONDS}
        digests = [self._digest(request) for request in requests]
        for digest in set(digests):
            losses, _ = self._seen.get(digest, (0, now))
            self._seen[digest] = losses + 1, now
        return [self._seen[digest][0] >= LOSSES for digest in digests]

    def acquit(self, request: Generate) -> None:
        """Its audio has begun: its text does not kill. Next to nothing while no loss is remembered."""
        if self._seen:
            self._seen.pop(self._digest(request), None)

    def _digest(self, request: Generate) -> bytes:
        said = msgspec.msgpack.encode((request.voice, request.chunks))
        return hashlib.blake2b(said, key=self._key, digest_size=16).digest()
