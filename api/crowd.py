"""Room for connections: a full house closes the one that has waited longest, so that there is always a free door.

Otherwise idle sockets use up the process' file descriptors, and then nobody, not even a health check, gets in.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

try:
    import resource
except ImportError:  # Windows has no such limit.
    resource = None

log = logging.getLogger("lyre")

RESERVE: Final = 128
"""Descriptors for everything that is no connection: the engine's sockets and pipes, files, libraries."""
ENOUGH: Final = 65_536
"""More are never asked for: some programs walk through all descriptors that they might have."""
_SAY_EVERY: Final = 60.0


class Crowd:
    """At most `most` open connections. Those whose request is complete and not answered yet are never closed."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._working: set[Any] = set()
        # Ordered: who has waited longest is the first.
        self._waiting: dict[Any, Callable[[], None]] = {}
        self._said = -_SAY_EVERY

    def __len__(self) -> int:
        return len(self._working) + len(self._waiting)

    def wait(self, connection: Any, close: Callable[[], None]) -> None:
        """It is new, or waits for its next request; `close` may be called when its place is needed."""
        self._working.discard(connection)
        self._waiting.setdefault(connection, close)
        while len(self) > self._most:
            longest, close_longest = next(iter(self._waiting.items()))
            del self._waiting[longest]
            close_longest()
            self._say()

    def work(self, connection: Any) -> None:
        """Its request is complete."""
        self._waiting.pop(connection, None)
        self._working.add(connection)

    def leave(self, connection: Any) -> None:
        """It is closed."""
        self._waiting.pop(connection, None)
        self._working.discard(connection)

    def _say(self) -> None:
        now = self._clock()
        if now - self._said >= _SAY_EVERY:
            self._said = now
            log.warning("%d connections are open: those that wait for a request are closed for new ones", self._most)


def raise_descriptor_limit() -> int | None:
    """The file descriptors that this process may have, after asking for as many as it is allowed. None: no limit."""
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return None if soft == resource.RLIM_INFINITY else soft


def room(most: int, descriptors: int | None) -> int:
    """How many connections fit, at most `most`."""
    return most if descriptors is None else max(1, min(most, descriptors - RESERVE))
