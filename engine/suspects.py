"""Suspects: what was about to be spoken when an engine process died, for a request that kills one may come again.

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


class Suspects:
    """Tells a request that was there at one death from one that was there at two."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._seen: dict[bytes, float] = {}

    def note(self, requests: Sequence[Generate]) -> list[bool]:
        """A process has died with these; -> for each, whether the same text was there at an earlier death."""
        now = self._clock()
        self._seen = {digest: at for digest, at in self._seen.items() if now - at < MEMORY_SECONDS}
        digests = [self._digest(request) for request in requests]
        again = [digest in self._seen for digest in digests]
        self._seen.update(dict.fromkeys(digests, now))
        return again

    def _digest(self, request: Generate) -> bytes:
        said = msgspec.msgpack.encode((request.voice, request.chunks))
        return hashlib.blake2b(said, key=self._key, digest_size=16).digest()
