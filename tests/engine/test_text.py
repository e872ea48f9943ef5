"""Text into chunks: every word once and in order, none too long, sentences and tags whole."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text import MAX_CHUNK_CHARS, TextChunk, frame_budget
from engine.text import chunks as text_chunks

TAGS = ["<laugh>", "<chuckle>", "<sigh>", "<cough>", "<sniffle>", "<groan>", "<yawn>", "<gasp>"]
ABBREVIATIONS = [
    "Mr.",
    "Mrs.",
    "Ms.",
    "Dr.",
    "Prof.",
    "St.",
    "vs.",
    "e.g.",
    "i.e.",
    "Gen.",
    "approx.",
    "Jr.",
    "Sr.",
    "J.",
]
WORDS = st.sampled_from(
    ["a", "one", "word,", "end.", "why?", "no!", "(so)", "(so.)", '"Go!"', "semi;", "Dr.", "it's", "x" * 40, *TAGS]
)
SPACES = st.sampled_from([" ", "  ", "\t", "\u00a0"])


def chunks(text: str, limit: int = MAX_CHUNK_CHARS) -> list[str]:
    """The texts of the chunks."""
    return [chunk.text for chunk in text_chunks(text, limit)]


def letters(text: str) -> str:
    """A text without its spaces."""
    return "".join(text.split())


@pytest.fixture
def prose() -> str:
    """Four thousand characters of sentences of all lengths."""
    sentences = [f"Sentence {i} has {'a few more words than that, ' * (i % 9)}and an end." for i in range(60)]
    return " ".join(sentences)[:4000]


# ---- what must always hold


@given(st.lists(st.tuples(WORDS, SPACES), max_size=80), st.integers(20, 300))
def test_every_character_is_kept_in_order(parts: list[tuple[str, str]], limit: int) -> None:
    text = "".join(word + space for word, space in parts)
    assert letters("".join(chunks(text, limit))) == letters(text)


@given(st.text(max_size=600), st.integers(10, 300))
def test_any_text_gives_clean_chunks_within_the_limit(text: str, limit: int) -> None:
    for chunk in chunks(text, limit):
        assert 0 < len(chunk) <= limit
        assert chunk == chunk.strip()
        assert "  " not in chunk


@given(st.lists(WORDS, min_size=1, max_size=120), st.integers(40, 300))
def test_words_are_not_cut_when_they_fit(words: list[str], limit: int) -> None:
    spoken = " ".join(chunks(" ".join(words), limit)).split()
    assert spoken == words


@given(st.text(alphabet=st.sampled_from("ab ,.<>"), max_size=200), st.sampled_from(TAGS), st.integers(20, 60))
def test_a_tag_is_never_split(around: str, tag: str, limit: int) -> None:
    text = around[: len(around) // 2] + tag + around[len(around) // 2 :]
    assert sum(chunk.count(tag) for chunk in chunks(text, limit)) >= 1


def test_a_long_prose_keeps_the_limit(prose: str) -> None:
    pieces = chunks(prose)
    assert max(map(len, pieces)) <= MAX_CHUNK_CHARS
    assert " ".join(pieces) == prose


# ---- where chunks end


def test_a_chunk_ends_where_a_sentence_ends(prose: str) -> None:
    pieces = chunks(prose)
    whole = [piece for piece in pieces[:-1] if piece.endswith("an end.")]
    assert len(whole) >= len(pieces) // 2


def test_short_sentences_are_spoken_together() -> None:
    assert chunks("Hello. How are you? Fine!") == ["Hello. How are you? Fine!"]


def test_a_long_sentence_is_cut_at_its_clauses() -> None:
    clause = "here is a clause of a long sentence"
    pieces = chunks(", ".join([clause] * 12) + ".", limit=100)
    assert all(piece.endswith((",", ".")) for piece in pieces)


def test_a_sentence_without_clauses_is_cut_at_spaces() -> None:
    pieces = chunks("word " * 100, limit=50)
    assert set(" ".join(pieces).split()) == {"word"}
    assert len(" ".join(pieces).split()) == 100


def test_text_without_spaces_is_cut_at_the_limit() -> None:
    assert chunks("x" * 25, limit=10) == ["x" * 10, "x" * 10, "x" * 5]


@pytest.mark.parametrize("abbreviation", ABBREVIATIONS)
def test_a_known_abbreviation_ends_no_sentence(abbreviation: str) -> None:
    # Long enough that two sentences would not be joined again.
    text = f"{'Some words come first here ' * 6}and then {abbreviation} Smith came in{', and so on' * 5}."
    for chunk in chunks(text, limit=len(text)):
        assert not chunk.endswith(abbreviation)


def test_etc_before_a_new_sentence_does_not_lose_it() -> None:
    assert letters("".join(chunks("Apples, pears, etc. Then we left."))) == letters("Apples, pears, etc. Then we left.")


@pytest.mark.parametrize(
    "quoted", ['He said "Go." Then he left.', "(He went.) She came.", "“Go!” he said. ‘No.’ She left."]
)
def test_a_quote_that_closes_after_the_full_stop_is_kept(quoted: str) -> None:
    assert letters("".join(chunks(quoted))) == letters(quoted)


@pytest.mark.parametrize("stop", ["。", "！", "？"])
def test_a_chinese_sentence_ends_at_its_stop_without_a_space(stop: str) -> None:
    text = ("这是一个很长的句子" * 8 + stop) * 3
    assert all(chunk.endswith(stop) for chunk in chunks(text, limit=100))


@pytest.mark.parametrize("limit", [20, 60, 280])
def test_no_spaces_are_put_into_a_text_that_has_none(limit: int) -> None:
    text = ("这是一个句子，" * 5 + "说完了。") * 4
    assert "".join(chunks(text, limit)) == text


def test_a_tag_in_text_without_spaces_is_not_split() -> None:
    for before in range(1, 12):
        pieces = chunks("a" * (20 - before) + "<laugh>" + "b" * 30, limit=20)
        assert any("<laugh>" in piece for piece in pieces), before


# ---- what is not spoken


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "<custom_token_3>", "<|eot_id|> <custom_token_12>"])
def test_text_with_nothing_to_say_gives_no_chunks(text: str) -> None:
    assert chunks(text) == []


@pytest.mark.parametrize("text", ["...", "?!", "- - -", "<>", "(\"')", "- <|eot_id|> ?", "<custom_token_7>!"])
def test_punctuation_alone_has_no_words(text: str) -> None:
    assert chunks(text) == []


HOSTILE = [
    "<custom_token_3>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<custom_<custom_token_1>token_3>",
    "<|eot<|eot_id|>_id|>",
    "<custom_token_<custom_token_3>3>",
    "<<|x|>|eot_id|>",
    "<custom_token_0003>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_control_tokens_cannot_be_spelled(text: str) -> None:
    spoken = " ".join(chunks(f"before {text} after"))
    assert not re.search(r"<custom_token_\d+>|<\|(eot_id|begin_of_text|x)\|>", spoken)
    assert spoken.startswith("before ")
    assert spoken.endswith(" after")


def test_a_tag_alone_is_something_to_say() -> None:
    assert chunks(" <laugh> ") == ["<laugh>"]


def test_tags_are_not_taken_for_control_tokens() -> None:
    text = " ".join(TAGS)
    assert chunks(text) == [text]


# ---- budgets


@given(st.integers(1, 4096))
def test_the_frame_budget_is_far_above_a_slow_reader(length: int) -> None:
    # A slow reader takes 8 characters a second; a frame is 85 ms.
    assert frame_budget("x" * length) * 2048 / 24_000 > length / 8


def test_what_is_read_as_a_word_or_a_syllable_has_more() -> None:
    # Half a second each: a digit of a card number, a character of a slow reader's Chinese.
    for text in ("4111111111111111" * 4, "今天气温是二十五度" * 10, "안녕하세요" * 10):
        assert frame_budget(text) * 2048 / 24_000 > len(text) / 2
    assert frame_budget("Ja, über Nacht: naïve.") == frame_budget("x" * len("Ja, über Nacht: naïve."))


def test_a_runaway_does_not_speak_for_minutes() -> None:
    assert frame_budget("x" * MAX_CHUNK_CHARS) * 2048 / 24_000 < 60


# ---- pauses and balance


def test_pauses_are_longer_where_more_ends() -> None:
    sentence = "This is a sentence of some length, so that a chunk does not hold too many of them in one."
    text = f"{sentence} {sentence} {sentence} {sentence}\n\n{sentence} {sentence} {sentence}\n\nThe end of it all."
    pauses = [chunk.pause for chunk in text_chunks(text)]
    assert set(pauses[:-1]) == {0.45, 0.6}
    assert pauses[-1] == 0.0


def test_a_cut_inside_a_sentence_pauses_less() -> None:
    clause = "here is a clause of a long sentence"
    pauses = [chunk.pause for chunk in text_chunks(", ".join([clause] * 12) + ".", limit=100)]
    assert set(pauses[:-1]) == {0.25}
    assert {chunk.pause for chunk in text_chunks("word " * 60, limit=50)} == {0.0}


@given(st.integers(2, 60), st.integers(3, 30))
def test_the_last_chunk_is_not_a_crumb(sentences: int, words: int) -> None:
    texts = chunks(" ".join([f"It {'really ' * words}is so."] * sentences))
    assert len(texts) == 1 or len(texts[-1]) >= 40


def test_the_first_chunk_of_a_long_text_is_a_short_one(prose: str) -> None:
    first, *rest = chunks(prose)
    assert len(first) <= max(map(len, rest))
    assert len(first) < 200


def test_a_long_sentence_is_not_put_behind_a_short_one() -> None:
    short, long = (
        "The road was wet.",
        "Near the village, two miles from home, a sheep stood in the middle of the lane and would not move at all.",
    )
    assert chunks(f"{long} {short} {long}", 140) == [long, short, long]
    assert chunks(f"{short} {short} {short}", 140) == [f"{short} {short} {short}"]


def test_a_line_without_a_stop_gets_one_where_another_is_spoken_on() -> None:
    assert chunks("Bread\nEggs!\nTea") == ["Bread. Eggs! Tea"]
    assert chunks("牛奶\n鸡蛋") == ["牛奶 鸡蛋"]


def test_a_list_is_cut_at_its_items() -> None:
    items = [f"The item number {i} of this long list has a name." for i in range(12)]
    texts = chunks("\n".join(f"{item}" for item in items))
    assert all(text.startswith("The item") and text.endswith("name.") for text in texts)
    assert len(texts) > 3


@pytest.mark.parametrize("stop", ["\n\n", "\r\n\r\n", "\u2029", " \n \n "])
def test_a_paragraph_is_a_boundary(stop: str) -> None:
    half = "This paragraph is long enough to be spoken alone, and that is what is done with it here."
    assert text_chunks(half + stop + half) == [TextChunk(half, 0.6), TextChunk(half, 0.0)]
