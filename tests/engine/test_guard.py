"""Circles and what is no circle, stream by stream in one batch; what the guard decides of a frame."""

from __future__ import annotations

import numpy as np
import pytest

from engine.guard import FADE, Guard, faded
from engine.repetition import MEMORY, MOST, SPAN, Repetition
from engine.scheduler import FrameResult
from engine.sequence import Chunk, FinishReason, Sequence
from engine.windows import SAMPLES_PER_FRAME

QUIET = bytes(2 * SAMPLES_PER_FRAME)
LOUD = np.full(SAMPLES_PER_FRAME, 5000, "<i2").tobytes()


def told(repetition: Repetition, first_codes: list[int], slot: int = 0) -> list[bool]:
    """What is said of each frame of a chunk."""
    slots = np.array([slot])
    return [
        bool(repetition.hear(slots, np.array([number], np.int32), np.array([code], np.int32))[0])
        for number, code in enumerate(first_codes, 1)
    ]


@pytest.mark.parametrize("circle", [1, 2, 7, 30, MEMORY])
@pytest.mark.parametrize("before", [0, 50])
def test_a_circle_is_noticed(circle: int, before: int) -> None:
    codes = [4000 - k for k in range(before)] + [k % circle for k in range(circle + SPAN)]
    found = told(Repetition(1), codes)
    # In the third second of what had been said before.
    assert found.index(True) == before + circle + MOST


def test_a_circle_that_is_not_quite_one() -> None:
    codes = [k % 5 if k % 10 else 1000 + k for k in range(60)]
    assert any(told(Repetition(1), codes))


@pytest.mark.parametrize("seed", range(5))
def test_what_comes_back_now_and_then_is_no_circle(seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = [int(code) if k % 2 else 7 for k, code in enumerate(random.integers(0, 4096, 500))]
    assert not any(told(Repetition(1), codes))


def test_a_circle_longer_than_the_memory_is_not_noticed() -> None:
    assert not any(told(Repetition(1), [k % (MEMORY + 1) for k in range(400)]))


def test_a_new_chunk_and_other_slots_know_nothing_of_it() -> None:
    repetition = Repetition(3)
    assert any(told(repetition, [1] * 30, slot=1))
    assert not any(told(repetition, list(range(30)), slot=2))
    assert told(repetition, [1] * 20, slot=1) == [False] * 20
    slots, frames = np.array([0, 1, 2]), np.array([1, 21, 31], np.int32)
    assert repetition.hear(slots, frames, np.array([1, 1, 1], np.int32)).tolist() == [False, True, False]


class Talk:
    """Streams that are heard by one guard, frame by frame."""

    def __init__(self, guard: Guard, streams: int = 1) -> None:
        self.guard = guard
        self.sequences = [Sequence(i, [Chunk([0], 999)], 0, slot=i, silence=guard.silence()) for i in range(streams)]

    def frame(self, codes: list[int], pcm: list[bytes], last: bool = False) -> list[tuple[bytes, FinishReason | None]]:
        for sequence in self.sequences:
            sequence.frames += 1
        frames = np.array([[code, *[0] * 6] for code in codes], np.int32)
        return self.guard.hear([FrameResult(s, True, last) for s in self.sequences], frames, pcm)


def cuts(talk: Talk, frames: int, pcm: bytes) -> list[FinishReason | None]:
    """Of one stream that is stuck."""
    return [talk.frame([5], [pcm])[0][1] for _ in range(frames)]


def test_a_circle_ends_its_own_chunk_only() -> None:
    talk = Talk(Guard(2), streams=2)
    for frame in range(MOST + 1):
        assert talk.frame([5, frame], [LOUD, LOUD]) == [(LOUD, None)] * 2
    (sent, cut), other = talk.frame([5, 99], [LOUD, LOUD])
    assert (cut, other) == (FinishReason.REPETITION, (LOUD, None))
    assert (len(sent), sent[: -2 * FADE], sent[-2:]) == (len(LOUD), LOUD[: -2 * FADE], b"\0\0")


def test_a_chunk_that_ends_by_itself_is_not_cut() -> None:
    talk = Talk(Guard(1))
    cuts(talk, MOST + 1, LOUD)
    assert talk.frame([5], [LOUD], last=True) == [(LOUD, None)]


def test_silence_is_no_circle_and_too_much_of_it_ends_the_chunk() -> None:
    talk = Talk(Guard(1, max_silence=2.5))
    assert cuts(talk, 4, LOUD) == [None] * 4
    frames = int(np.ceil(2.5 * 24_000 / SAMPLES_PER_FRAME))
    assert cuts(talk, frames, QUIET) == [None] * (frames - 1) + [FinishReason.SILENCE]


def test_speech_after_a_long_pause_is_no_circle() -> None:
    talk = Talk(Guard(1))
    assert cuts(talk, 4, LOUD) + cuts(talk, 27, QUIET) + cuts(talk, MOST, LOUD) == [None] * (31 + MOST)


def test_all_of_it_can_be_switched_off() -> None:
    talk = Talk(Guard(1, trim=False, max_silence=0, loops=False))
    assert cuts(talk, 100, QUIET) + cuts(talk, 100, LOUD) == [None] * 200
    assert talk.frame([5], [QUIET])[0] == (QUIET, None)


def test_a_stream_that_has_ended_teaches_nothing() -> None:
    talk = Talk(Guard(1))
    cuts(talk, MOST + 1, LOUD)
    ended = FrameResult(talk.sequences[0], spoken=False, last=True)
    assert talk.guard.hear([ended], np.full((1, 7), -1, np.int32), [b""]) == [(b"", None)]


@pytest.mark.parametrize("samples", [0, 1, FADE - 1, FADE, 2000])
def test_a_fade_keeps_the_length_and_never_grows(samples: int) -> None:
    sound = np.full(samples, -30_000, "<i2")
    soft = np.frombuffer(faded(sound.tobytes()), "<i2")
    assert len(soft) == samples
    assert (np.diff(soft.astype(int)) >= 0).all()
    assert (soft[:-FADE] == sound[:-FADE]).all()
