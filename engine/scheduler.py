"""Who runs: a queue in order of arrival, static slots, continuous batching at frame boundaries.

No torch, no clock, no threads: `schedule()` says what to start, `postprocess()` takes what the frame brought.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.sequence import FinishReason, Sequence

NEAR = 0.5
"""A stream whose listener has less than this many seconds left goes on even while others wait for their first sound."""


@dataclass(frozen=True)
class FrameResult:
    """What one decoded frame means for one sequence.

    `spoken`: the frame's codes are audio (not the end of speech). `last`: the current chunk has no further frame.
    """

    sequence: Sequence
    spoken: bool
    last: bool


class Scheduler:
    """Holds every sequence of the engine: waiting, or running in a slot."""

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots - 1, -1, -1))
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self._waiting and not self._running

    @property
    def running(self) -> list[Sequence]:
        """In slot order, so that a batch's rows are stable."""
        return [self._running[slot] for slot in sorted(self._running)]

    @property
    def unready(self) -> list[Sequence]:
        """Those in a slot whose prompt is not in the cache yet, in the order of their coming."""
        return [sequence for sequence in self._running.values() if not sequence.ready]

    def batch(self, now: float, quicker: Callable[[int, int], bool]) -> list[Sequence]:
        """Those that the next frame is for, in slot order.

        While somebody waits for the first sound, streams that are far ahead of their listeners let it go first, if a
        batch of so few rows is `quicker` than one of so many.
        """
        able = [sequence for sequence in self.running if sequence.launchable]
        if all(sequence.heard_at is not None for sequence in able):
            return able
        few = [sequence for sequence in able if sequence.heard_at is None or sequence.lead(now) < NEAR]
        return few if quicker(len(few), len(able)) else able

    @property
    def waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence at the end of the queue."""
        self._waiting.append(sequence)

    def expire(self, now: float) -> list[Sequence]:
        """Takes out those that have waited for a slot for too long; before `schedule()`, so that none gets one late."""
        late = [each for each in self._waiting if each.deadline is not None and each.deadline <= now]
        for sequence in late:
            self._finish(sequence, FinishReason.EXPIRED)
        return late

    def schedule(self) -> list[Sequence]:
        """Gives free slots to waiting sequences, oldest first; -> those that now need their prompt prefilled."""
        started = []
        while self._free and self._waiting:
            sequence = self._waiting.popleft()
            sequence.slot = self._free.pop()
            self._running[sequence.slot] = sequence
            started.append(sequence)
        return started

    def postprocess(self, batch: Iterable[tuple[Sequence, bool]]) -> list[FrameResult]:
        """Counts a decoded frame. `batch` pairs each sequence with whether it ended instead of giving audio."""
        results = []
        for sequence, ended in batch:
            if not ended:
                sequence.frames += 1
                sequence.tokens += 7
            full = sequence.frames >= sequence.current.max_frames
            spent = sequence.spent
            if not ended and (full or spent):
                sequence.cut = sequence.cut or FinishReason.LENGTH
            if spent and not ended:
                del sequence.chunks[sequence.chunk + 1 :]
            results.append(FrameResult(sequence, spoken=not ended, last=ended or full or spent))
        return results

    def next_chunk(self, sequence: Sequence) -> bool:
        """Moves on to the next chunk in the same slot (True), or ends the sequence and frees its slot (False)."""
        if sequence.chunk + 1 < len(sequence.chunks):
            sequence.chunk += 1
            sequence.repeated, sequence.cut_before = False, sequence.cut
            sequence.frames = sequence.prefilled = sequence.flying = 0
            return True
        self._finish(sequence, sequence.cut or FinishReason.STOP)
        return False

    def again(self, sequence: Sequence) -> bool:
        """Begins the current chunk once more, with other random numbers; False when that was done, or may not be."""
        if sequence.repeated or sequence.spent:
            return False
        # What ended the first take says nothing of the second.
        sequence.repeated, sequence.cut = True, sequence.cut_before
        sequence.frames = sequence.prefilled = sequence.flying = 0
        return True

    def cancel(self, request_id: int) -> Sequence | None:
        """Takes a request out, wherever it is; None when it is not here (any more)."""
        for sequence in (*self._waiting, *self._running.values()):
            if sequence.request_id == request_id:
                self._finish(sequence, FinishReason.CANCELLED)
                return sequence
        return None

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        if sequence.slot is None:
            self._waiting.remove(sequence)
        else:
            del self._running[sequence.slot]
            self._free.append(sequence.slot)
            self._free.sort(reverse=True)
