"""Orpheus' token layout: prompts as the model was trained on them, and codes back from tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CheckpointError
from engine.model.checkpoint import dummy_checkpoint
from engine.prompt import AUDIO_TOKENS, CODEBOOK_SIZE, TokenLayout, codebooks, strip_control_text, voice_prompt

BASE = 128_256
FRAMES = st.lists(st.lists(st.integers(0, 4095), min_size=7, max_size=7), max_size=20)


def vocabulary(**changes: int | None) -> dict[str, int | None]:
    """Llama 3's tokens that a prompt needs, and Orpheus' custom ones."""
    tokens: dict[str, int | None] = {"<|begin_of_text|>": 128_000, "<|eot_id|>": 128_009}
    tokens |= {f"<custom_token_{number}>": BASE + number for number in range(28_682)}
    return tokens | changes


@pytest.fixture(scope="module")
def layout() -> TokenLayout:
    return TokenLayout.from_vocabulary(vocabulary().get, 128_000, 156_940)


def test_the_layout_of_the_released_model(layout: TokenLayout) -> None:
    assert layout == TokenLayout(
        begin_of_text=128_000,
        end_of_turn=128_009,
        start_of_human=128_259,
        end_of_human=128_260,
        start_of_ai=128_261,
        start_of_speech=128_257,
        end_of_speech=128_258,
        first_audio=128_266,
    )
    assert dummy_checkpoint("orpheus-3b").layout == layout


def test_the_prompt_has_one_begin_of_text_and_ends_in_start_of_speech(layout: TokenLayout) -> None:
    assert layout.prompt([1, 2, 3]) == [128_259, 128_000, 1, 2, 3, 128_009, 128_260, 128_261, 128_257]


def test_a_tokenizer_without_a_bos_setting_is_looked_up() -> None:
    assert TokenLayout.from_vocabulary(vocabulary().get, None, 156_940).begin_of_text == 128_000


@given(FRAMES)
def test_codes_are_the_inverse_of_tokens(frames: list[list[int]]) -> None:
    layout = dummy_checkpoint("orpheus-3b").layout
    tokens = [128_266 + slot * CODEBOOK_SIZE + code for frame in frames for slot, code in enumerate(frame)]
    assert layout.codes(tokens) == frames


def test_code_0_of_slot_0_is_legal(layout: TokenLayout) -> None:
    tokens = [128_266 + slot * 4096 for slot in range(7)]
    assert layout.codes(tokens) == [[0] * 7]
    assert layout.codes([token + 4095 for token in tokens]) == [[4095] * 7]


@pytest.mark.parametrize(("at", "shift"), [(0, -1), (0, 4096), (3, -1), (3, 4096), (6, 4096), (6, -4096)])
def test_a_token_of_another_slot_is_refused(layout: TokenLayout, at: int, shift: int) -> None:
    tokens = [128_266 + slot * 4096 for slot in range(7)]
    tokens[at] += shift
    with pytest.raises(ValueError, match=f"slot {at}"):
        layout.codes(tokens)


@pytest.mark.parametrize("count", [1, 6, 8, 13])
def test_partial_frames_are_refused(layout: TokenLayout, count: int) -> None:
    with pytest.raises(ValueError, match="whole frames"):
        layout.codes([128_266 + i % 7 * 4096 for i in range(count)])


def test_codebooks_are_ordered_as_the_reference_orders_them() -> None:
    frames = [[0, 1, 2, 3, 4, 5, 6], [10, 11, 12, 13, 14, 15, 16]]
    assert codebooks(frames) == [[0, 10], [1, 4, 11, 14], [2, 3, 5, 6, 12, 13, 15, 16]]


def test_the_voice_comes_before_the_text() -> None:
    assert voice_prompt("tara", "Hello.") == "tara: Hello."


@given(st.text(max_size=200))
def test_text_without_control_tokens_is_left_alone(text: str) -> None:
    if "<|" not in text and "<custom" not in text:
        assert strip_control_text(text) == text


# ---- tokenizers that are not Orpheus'


@pytest.mark.parametrize(
    "missing",
    ["<|eot_id|>", *(f"<custom_token_{number}>" for number in (1, 2, 3, 4, 5, 10, 28_681))],
)
def test_a_missing_token_is_named(missing: str) -> None:
    with pytest.raises(CheckpointError, match=missing.replace("|", r"\|")):
        TokenLayout.from_vocabulary(vocabulary(**{missing: None}).get, 128_000, 156_940)


def test_no_begin_of_text_at_all_is_named() -> None:
    with pytest.raises(CheckpointError, match="begin_of_text"):
        TokenLayout.from_vocabulary(vocabulary(**{"<|begin_of_text|>": None}).get, None, 156_940)


def shifted(number: int) -> int:
    """Ids with one left free between <custom_token_4999> and <custom_token_5000>."""
    return BASE + number + (number >= 5000)


def swapped(number: int) -> int:
    """Ids where two audio tokens have changed places."""
    return BASE + {5000: 5001, 5001: 5000}.get(number, number)


@pytest.mark.parametrize("ids", [shifted, swapped])
def test_audio_tokens_that_are_not_consecutive_are_refused(ids: Callable[[int], int]) -> None:
    tokens = vocabulary(**{f"<custom_token_{number}>": ids(number) for number in range(10, 28_682)})
    with pytest.raises(CheckpointError, match="consecutive"):
        TokenLayout.from_vocabulary(tokens.get, 128_000, 160_000)


def test_a_gap_in_the_audio_tokens_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"custom_token_5000|consecutive"):
        TokenLayout.from_vocabulary(vocabulary(**{"<custom_token_5000>": None}).get, 128_000, 156_940)


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    last = 128_266 + AUDIO_TOKENS - 1
    TokenLayout.from_vocabulary(vocabulary().get, 128_000, last + 1)
    with pytest.raises(CheckpointError, match=str(last)):
        TokenLayout.from_vocabulary(vocabulary().get, 128_000, last)


@pytest.mark.parametrize("token", ["<|eot_id|>", "<custom_token_1>", "<custom_token_2>", "<custom_token_3>"])
def test_a_control_token_outside_of_the_vocabulary_is_refused(token: str) -> None:
    with pytest.raises(CheckpointError, match="160000"):
        TokenLayout.from_vocabulary(vocabulary(**{token: 160_000}).get, 128_000, 156_940)


def test_a_begin_of_text_outside_of_the_vocabulary_is_refused() -> None:
    with pytest.raises(CheckpointError, match="160000"):
        TokenLayout.from_vocabulary(vocabulary().get, 160_000, 156_940)
