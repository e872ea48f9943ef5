"""Quiet between chunks: added only where the model left too little."""

from __future__ import annotations

from array import array

import pytest

from engine.pauses import AUDIBLE, SAMPLE_RATE, empty_speech, pause, trailing_quiet

LOUD, SOFT = AUDIBLE + 1, AUDIBLE


@pytest.mark.parametrize(
    ("samples", "before", "quiet"),
    [
        ([], 7, 7),
        ([0, 0, 0], 7, 10),
        ([LOUD], 7, 0),
        ([LOUD, SOFT, -SOFT], 7, 2),
        ([-LOUD, 0], 0, 1),
        ([-32768, 0, 0], 5, 2),
    ],
)
def test_silence_is_counted_from_the_last_audible_sample(samples: list[int], before: int, quiet: int) -> None:
    assert trailing_quiet(array("h", samples).tobytes(), before) == quiet


def test_silence_in_pieces_is_silence() -> None:
    pcm = array("h", [LOUD, 0, 0, 0, 0]).tobytes()
    assert trailing_quiet(pcm[4:], trailing_quiet(pcm[:4], 0)) == trailing_quiet(pcm, 0) == 4


@pytest.mark.parametrize(("quiet", "added"), [(0, 12_000), (5_000, 7_000), (12_000, 0), (30_000, 0)])
def test_a_pause_adds_what_is_missing(quiet: int, added: int) -> None:
    assert pause(0.5, quiet) == bytes(2 * added)


def test_empty_speech_is_true_silence() -> None:
    assert empty_speech() == bytes(2 * 3 * SAMPLE_RATE // 10)
