"""Repetition: whether a stream says nothing new: a stuck sound, or a phrase over and over. For all slots at once.

It looks at the first code of each frame, one of 4,096 that say in what region of sound the 85 ms lie. Speech, even
"no, no, no, no", hardly ever comes back to the same one; a model that goes round in a circle always does.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.prompt import CODEBOOK_SIZE

MEMORY: Final = 96
"""A frame is familiar if so many frames before it, at most, one began with the same code: a circle may last 8 s."""
SPAN: Final = 24
"""The latest frames that are judged: 2 s."""
MOST: Final = 19
"""How many of them may be familiar. In speech at most 9 were (docs/quality.md)."""


class Repetition:
    """One row of memory for each slot."""

    def __init__(self, slots: int) -> None:
        self._last = np.full((slots, CODEBOOK_SIZE), -MEMORY, np.int32)
        self._familiar = np.zeros((slots, SPAN), bool)
        self._count = np.zeros(slots, np.int32)

    def hear(self, slots: NDArray[np.intp], frames: NDArray[np.int32], first: NDArray[np.int32]) -> NDArray[np.bool_]:
        """One frame of each slot, all different: its number in its chunk, from 1 on, and its first code.

        -> for each whether it turns in a circle.
        """
        new = slots[frames == 1]
        if len(new):
            self._last[new] = -MEMORY
            self.forgive(new)
        familiar = frames - self._last[slots, first] <= MEMORY
        self._last[slots, first] = frames
        place = (slots, frames % SPAN)
        self._count[slots] += familiar.astype(np.int32) - self._familiar[place]
        self._familiar[place] = familiar
        return self._count[slots] > MOST

    def forgive(self, slots: NDArray[np.intp]) -> None:
        """Forgets what was familiar so far: all silences are alike."""
        self._familiar[slots] = False
        self._count[slots] = 0
