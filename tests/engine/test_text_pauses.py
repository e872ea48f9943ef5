"""Quiet between chunks: added only where the model left too little."""

from __future__ import annotations

import pytest

from engine.pauses import SAMPLE_RATE, empty_speech, pause


@pytest.mark.parametrize(("quiet", "added"), [(0, 12_000), (5_000, 7_000), (12_000, 0), (30_000, 0)])
def test_a_pause_adds_what_is_missing(quiet: int, added: int) -> None:
    assert pause(0.5, quiet) == bytes(2 * added)


def test_empty_speech_is_true_silence() -> None:
    assert empty_speech() == bytes(2 * 3 * SAMPLE_RATE // 10)
