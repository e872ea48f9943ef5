"""Whether one more answer may be begun: room in the engine, and not too many answers open.

An answer is open until its client has taken it: one that is read slowly keeps its finished audio, up to 20 MB, here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from api.errors import busy
from engine import Engine

_FEWEST: Final = 32
"""A small server's limit: a few slow readers are no reason to leave its engine idle."""


class Admission:
    """Counts the answers that are `open`. At most `max_open` are, or twice what the engine takes."""

    def __init__(self, engine: Engine, max_open: int | None = None) -> None:
        self.open = 0
        self._engine = engine
        self._max_open = max_open

    def check(self) -> None:
        """Refuses, for next to nothing, what cannot be taken whatever it asks for.

        EngineOverloaded, EngineUnavailable, or the 503.
        """
        self._engine.check_room()
        if self.open >= (self._max_open or max(_FEWEST, 2 * self._engine.places)):
            message = "The server is at its limit of answers that are still being read. Please retry shortly."
            raise busy(message, "overloaded", "rejected")

    @contextmanager
    def seat(self) -> Iterator[None]:
        """One open answer, held inside the context; raises as `check` does."""
        self.check()
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1
