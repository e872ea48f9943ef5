"""The long text that a server is judged by, and the judge: benchmarks/longform.py."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.longform import BYTES_PER_SECOND, RATE, TEXT, compared, plain_words, played, quiet
from engine.text import Normaliser, chunks


@pytest.fixture(scope="module")
def text() -> str:
    """As it is sent."""
    return TEXT.read_text(encoding="utf-8")


def test_the_text_holds_what_it_should(text: str) -> None:
    assert len(text) == 4096
    for part in (
        "https://",
        "Dr. ",
        "e.g. ",
        "$240",
        "£95,000",
        "4°C",
        "80%",
        "1.5 kg",
        "9 p.m.",
        "<laugh>",
        "<yawn>",
        "\n- ",
    ):
        assert part in text


@pytest.mark.parametrize("limit", [140, 280])
def test_every_word_of_it_is_in_a_chunk_once_and_in_order(text: str, limit: int) -> None:
    spoken = chunks(Normaliser()(text), limit)
    assert plain_words(" ".join(chunk.text for chunk in spoken)) == plain_words(text)
    assert max(len(chunk.text) for chunk in spoken) <= limit
    assert max(chunk.pause for chunk in spoken) < 1
    assert not any(character.isdigit() for chunk in spoken for character in chunk.text)


def test_an_underrun_is_one_wait_of_the_player() -> None:
    half = BYTES_PER_SECOND // 2
    smooth = played([(1.0, 0), (1.2, half), (1.6, 2 * half)], 3 * half, 2.0)
    assert (smooth.first_audio, smooth.underruns, smooth.late) == (1.0, 0, 0.0)
    late = played([(1.0, 0), (1.7, half), (2.1, 2 * half), (3.2, 3 * half)], 4 * half, 3.3)
    assert (late.underruns, late.late) == (2, pytest.approx(0.5))


def test_silence_is_found_between_sounds_only() -> None:
    second = np.zeros(RATE, np.float32)
    tone = np.full(RATE // 2, 0.5, np.float32)
    found = quiet(np.concatenate([second, tone, second, second, tone, second]))
    assert (found.longest, found.over_one_second) == (pytest.approx(2.0), 1)
    assert found.at == pytest.approx(1.49)


def test_missing_and_repeated_sentences_are_named() -> None:
    text = "The first sentence is here. The second one costs $5. A third one follows it at last."
    heard = "the first sentence is here a third one follows it at last a third one follows it at last"
    words = compared(text, heard)
    assert words.missing == ["The second one costs five dollars."]
    assert words.repeated == ["A third one follows it at last."]
    assert compared(text, text.replace("$5", "five dollars")).word_error_rate == 0


def test_sentences_in_another_order_are_missed() -> None:
    text = "The first sentence is here now. A second one follows it at once."
    assert len(compared(text, "a second one follows it at once the first sentence is here now").missing) == 1
