"""Where sentences end: a list of hard cases, and what must hold for any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text.sentences import clauses, paragraphs, sentences

HARD = [
    ["He met Mr. Smith and Dr. Jones at St. Mary's.", "They left at 5 p.m. on Friday."],
    ["The U.S. economy grew 3.14 percent.", "It cost $1,000.50 at 12:30."],
    ["He lives in the U.S.", "She lives in the U.K."],
    ["We like fruit, e.g. apples, i.e. the red ones, etc., and nuts."],
    ["Apple Inc. is large.", "Acme Corp. bought No. 5 vs. No. 6."],
    ["J. R. R. Tolkien wrote it.", "So did J.K. Rowling."],
    ["See https://example.com/a.b?c=d!x for more.", "Mail bob.smith@example.co.uk now."],
    ["I was... thinking about it.", "Maybe not."],
    ["He was… asleep.", "Yes!"],
    ['"Go away!" he said.', '"Why is that?" she replied.'],
    ['He said, "I am done."', "Then he left."],
    ["“Are you sure?” she asked.", "‘Yes.’", "He was."],
    ["(It was late.)", "She yawned."],
    ["On Jan. 5, 2026 it rained.", "In Sept. it snowed."],
    ["Version 2.0.1 is out!", "Really?", "Yes."],
    ["What?!", "No way..."],
    ["It was 5 a.m. when he came."],
    ["It was 5 a.m.", "The sun rose."],
    ["Gov. Brown and Sen. Lee met Gen. Grant on Main St. yesterday."],
    ["The Ph.D. student, aged 5 ft. 6 in. tall, came."],
    ["Yahoo! is a company.", "It is old."],
    ["<laugh> That is funny!", "<sigh> Well."],
    ["He paid $5.", "Five dollars is cheap."],
    ["There were two left.", "five of them came."],
    ["I got an A.", "Then we left."],
    ["It is Vitamin C.", "That helps."],
    ["He said no.", "She said yes."],
    ["1. Buy milk.", "2. Buy bread."],
    ["it was late.", "we went home.", "all of us."],
    ["这是第一句。", "这是第二句！", "真的吗？"],
    ["彼は「はい。」", "そして帰った。"],
    ["यह पहला वाक्य है।", "यह दूसरा है।"],
    ["هل أنت بخير؟", "نعم."],
]


@pytest.mark.parametrize("whole", HARD, ids=lambda parts: parts[0][:24])
def test_hard_cases(whole: list[str]) -> None:
    text = ("" if "\u3000" < whole[0][0] < "\uff00" else " ").join(whole)
    assert [sentence.strip() for sentence in sentences(text)] == whole


@given(st.text(max_size=300))
def test_pieces_are_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text
    assert "".join(clauses(text)) == text


@given(st.text(alphabet="ab .!?…,;:\"'()<>。—\n", max_size=200))
def test_pieces_of_punctuation_are_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text
    assert "".join(clauses(text)) == text


@given(st.text(max_size=300))
def test_paragraphs_keep_every_letter(text: str) -> None:
    joined = "".join(line for block in paragraphs(text) for line in block)
    assert "".join(joined.split()) == "".join(text.split())


def test_a_wrapped_line_is_joined_and_a_short_one_is_not() -> None:
    wrapped = "This line was wrapped by a program at some eighty characters, as mail programs do,\nand it goes on here."
    assert paragraphs(wrapped) == [[wrapped.replace("\n", " ")]]
    assert paragraphs("Roses are red,\nViolets are blue.") == [["Roses are red,", "Violets are blue."]]
    assert paragraphs("Chapter One\nIt was late") == [["Chapter One", "It was late"]]


@pytest.mark.parametrize("mark", ["-", "*", "•", "1.", "2)", "(3)", "a)"])
def test_an_item_of_a_list_is_a_line(mark: str) -> None:
    before = "Here is what you will have to buy for the dinner that we want to cook on Saturday"
    assert paragraphs(f"{before}\n{mark} bread\n{mark} milk") == [[before, f"{mark} bread", f"{mark} milk"]]


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("First, this; then that: done.", 4),
        ("It cost 1,000 at 12:30.", 1),
        ("He came — late — and left.", 3),
        ("这是，一个；句子。", 3),
        ("well-known", 1),
    ],
)
def test_clauses(sentence: str, parts: int) -> None:
    assert len(clauses(sentence)) == parts
