"""What of a request's quiet is sent: the same samples however the audio is cut into pieces."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.guard import audible_ends, audible_start
from engine.pauses import AUDIBLE
from engine.silence import LEAD, NATURAL, Silence

LIMIT = 5 * NATURAL // 2


def quiet(samples: int, first: int = 1) -> bytes:
    """Audio that is told apart by its samples, none of them audible."""
    return (np.arange(first, first + samples) % AUDIBLE).astype("<i2").tobytes()


def loud(samples: int) -> bytes:
    return np.where(np.arange(samples) % 2, -9000, 9000).astype("<i2").tobytes()


def heard(silence: Silence, *pieces: bytes) -> bytes:
    """All that is sent of these pieces of one chunk."""
    out = b""
    for piece in pieces:
        end = audible_ends([piece])[0]
        out += silence.feed(piece, None if end < 0 else (audible_start(piece), end))
    return out


def pieces(pcm: bytes, cuts: list[int]) -> list[bytes]:
    borders = [0, *sorted(2 * (cut % (len(pcm) // 2 + 1)) for cut in cuts), len(pcm)]
    return [pcm[a:b] for a, b in pairwise(borders)]


@pytest.mark.parametrize("samples", [0, 1, LEAD - 1, LEAD, LEAD + 1, 20_000])
def test_fifty_milliseconds_of_the_quiet_before_the_first_sound_are_left(samples: int) -> None:
    before, speech = quiet(samples), loud(10)
    silence = Silence()
    assert heard(silence, before + speech) == before[-2 * LEAD :] + speech
    assert LEAD == 24_000 * 0.05
    # Only before the first sound.
    assert heard(silence, before + speech) == before + speech


def test_every_chunk_begins_anew() -> None:
    silence = Silence()
    heard(silence, loud(10) + quiet(50))
    silence.next_chunk()
    assert (silence.begun, silence.heard, silence.quiet, silence.passed) == (False, True, 0, 50)
    assert heard(silence, quiet(9000)) == b""
    assert silence.passed == 50
    assert heard(silence, loud(1)) == quiet(9000)[-2 * LEAD :] + loud(1)


def test_untrimmed_quiet_is_sent_as_it_comes() -> None:
    silence = Silence(trim=False, limit=LIMIT)
    assert heard(silence, quiet(9000)) == quiet(9000)
    assert (silence.begun, silence.passed, silence.quiet) == (False, 9000, 9000)


def test_a_pause_is_sent_at_once_and_what_is_longer_when_speech_goes_on() -> None:
    silence = Silence(limit=LIMIT)
    heard(silence, loud(10))
    assert heard(silence, quiet(NATURAL)) == quiet(NATURAL)
    assert heard(silence, quiet(500)) == heard(silence, quiet(300, 501)) == b""
    assert silence.passed == NATURAL
    assert heard(silence, loud(1)) == quiet(800) + loud(1)
    assert (silence.quiet, silence.passed, silence.too_long) == (0, 0, False)


def test_quiet_that_no_speech_follows_is_not_sent() -> None:
    silence = Silence(limit=LIMIT)
    assert heard(silence, loud(10) + quiet(2 * NATURAL)) == loud(10) + quiet(NATURAL)
    silence.next_chunk()
    assert silence.passed == NATURAL
    assert heard(silence, loud(1)) == loud(1)


@pytest.mark.parametrize("begun", [True, False])
def test_how_long_is_too_long(begun: bool) -> None:
    silence = Silence(limit=LIMIT)
    heard(silence, loud(10 * begun), quiet(LIMIT - 1))
    assert not silence.too_long
    heard(silence, quiet(1))
    assert silence.too_long


def test_without_a_limit_all_of_it_is_sent() -> None:
    silence = Silence(limit=inf)
    assert heard(silence, loud(1) + quiet(10 * NATURAL)) == loud(1) + quiet(10 * NATURAL)
    assert not silence.too_long


@given(
    parts=st.lists(st.tuples(st.booleans(), st.integers(1, 30_000)), max_size=6),
    cuts=st.lists(st.integers(0, 200_000), max_size=8),
    trim=st.booleans(),
    limit=st.sampled_from([LIMIT, inf]),
)
def test_the_cuts_between_pieces_change_nothing(
    parts: list[tuple[bool, int]], cuts: list[int], trim: bool, limit: float
) -> None:
    pcm = b"".join(loud(samples) if sound else quiet(samples) for sound, samples in parts)
    whole, cut = Silence(trim, limit), Silence(trim, limit)
    assert heard(whole, pcm) == heard(cut, *pieces(pcm, cuts))
    assert whole == cut
    # Nothing is put in, nothing is taken from within.
    assert heard(Silence(trim, limit), pcm) in pcm


def test_the_whole_range_of_samples_is_compared() -> None:
    for sample in (AUDIBLE + 1, -AUDIBLE - 1, 32767, -32768):
        assert audible_ends([np.array([0, sample, 0], "<i2").tobytes()]) == [1]
    for sample in (AUDIBLE, -AUDIBLE, 0):
        assert audible_ends([np.array([0, sample, 0], "<i2").tobytes()]) == [-1]


def test_pieces_of_all_lengths_are_looked_at_together() -> None:
    random = np.random.default_rng(0)
    lengths = [0, 1, 2, 255, 256, 257, 1387, 2047, 2048, 2048, 2049, 6805]
    for loudness in (100, 330, 3000):
        for _ in range(30):
            samples = [random.integers(-loudness, loudness + 1, length).astype("<i2") for length in lengths]
            for some in samples:
                some[random.integers(0, len(some) + 1) :] = 0
            ends = [max(np.flatnonzero(np.abs(some.astype(int)) > AUDIBLE), default=-1) for some in samples]
            assert audible_ends([some.tobytes() for some in samples]) == ends
