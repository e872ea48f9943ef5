"""Where sentences, clauses and paragraphs end. What it is not sure of is no end: a longer sentence costs nothing."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from engine.text.lexicon import BEFORE_MORE, BEFORE_NAMES, BEFORE_NUMBERS, MAYBE_LAST, MONTHS, OPENERS
from engine.text.numerals import ONES, TENS

_CLOSING: Final = "[\"'”’»›)\\]」』）】]*"
# The last alternatives need no space after them.
# A run of marks is tried from its first one only: else a long one takes the square of its length.
_STOP: Final = re.compile(rf"(?<![.!?…‽])([.!?…‽]+){_CLOSING}(?=\s)|[。！？｡]+{_CLOSING}|[।॥؟۔]+{_CLOSING}")
_CLAUSE: Final = re.compile(r"[,;:—–،؛](?:[\"'”’)\]])*(?=\s)|\s[-–—]+(?=\s)|[，；、：]")
_PARAGRAPH: Final = re.compile(r"(?:[^\S\n]*\n){2,}|[\x0b\x0c\x1c-\x1e\u2029]")
_LINE: Final = re.compile(r"\n")
_SHORT_LINE: Final = 60
_LIST_ITEM: Final = re.compile(r"\s*(?:[-*+•‣◦▪–—]|\(?\d{1,3}[.)]|[a-zA-Z][.)])\s")
_FIRST_WORD: Final = re.compile(r"[^\W_]+")
_LAST_WORD: Final = re.compile(r"[^\s(\[\"'“‘«/]*$")
_CASED: Final = re.compile(r"[.!?]\s+[A-Z]")

# A number that was put into words opens a sentence without a capital letter.
_NUMBER_WORDS: Final = frozenset([*ONES, *TENS, "minus", "about", "less", "more"])
_DOTTED: Final = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")


def paragraphs(text: str) -> list[list[str]]:
    """Blocks between blank lines, each as its lines: items of a list, titles, verse. A wrapped line is joined again."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x85", "\n").replace("\u2028", "\n")
    blocks = ([" ".join(line.split()) for line in _lines(block)] for block in _PARAGRAPH.split(text))
    return [lines for block in blocks if (lines := [line for line in block if line])]


def _lines(block: str) -> list[str]:
    """A line break ends a paragraph after a short line or before a list's item; else somebody wrapped the line."""
    joined: list[str] = []
    for line in _LINE.split(block):
        wrapped = joined and not (len(joined[-1]) < _SHORT_LINE and _opens_line(line))
        if wrapped and not _LIST_ITEM.match(line):
            joined[-1] += " " + line
        else:
            joined.append(line)
    return joined


def _opens_line(line: str) -> bool:
    """No small letter, unless it is a number's that was put into words: "two eggs"."""
    word = _FIRST_WORD.search(line)
    return not line.lstrip()[:1].islower() or (word is not None and word[0] in _NUMBER_WORDS)


def sentences(paragraph: str) -> list[str]:
    """Pieces that together are the paragraph, each with its closing quotes and the space after it."""
    cased = _CASED.search(paragraph) is not None
    cuts = [0]
    for stop in _STOP.finditer(paragraph):
        if stop[1] is None or _ends(paragraph, cuts[-1], stop, cased):
            cuts.append(stop.end())
    return _pieces(paragraph, cuts)


def clauses(sentence: str) -> list[str]:
    """The same for the places inside a sentence where a speaker may breathe."""
    return _pieces(sentence, [0, *(match.end() for match in _CLAUSE.finditer(sentence))])


def _pieces(text: str, cuts: list[int]) -> list[str]:
    """The text between the cuts; spaces after a cut stay with what is before it."""
    ends = [0]
    for cut in cuts[1:]:
        while cut < len(text) and text[cut].isspace():
            cut += 1
        ends.append(cut)
    return [text[a:b] for a, b in pairwise([*ends, len(text)]) if a < b]


def _ends(text: str, start: int, stop: re.Match[str], cased: bool) -> bool:
    """Whether the stop, which a space follows, ends the sentence that began at `start`."""
    rest = text[stop.end() : stop.end() + 40].lstrip()
    quoted = stop.end() > stop.end(1)
    word = _FIRST_WORD.search(rest)
    lower = word is not None and word[0][0].islower() and not rest.startswith("<") and word[0] not in _NUMBER_WORDS
    if stop[1] != ".":
        # "Why?" he asked. Well... perhaps. Yahoo! is a name.
        return not (lower and (cased or quoted or "." in stop[1] or "…" in stop[1]))
    if lower and (cased or quoted):
        return False
    last = _LAST_WORD.search(text, max(start, stop.start() - 40), stop.start())
    alone = last is not None and not text[start : last.start()].strip()
    return quoted or not _abbreviated(last[0] if last else "", rest, alone)


def _abbreviated(word: str, rest: str, alone: bool) -> bool:
    """Whether the full stop after `word` is a part of it; `alone`: nothing else is in the sentence so far."""
    following = re.match(r"[\"'“‘(\[]*([^\W\d_]+)", rest)
    opens = following is not None and following[1].lower() in OPENERS and following[1][0].isupper()
    known = word.lower()
    if known in BEFORE_NAMES or known in BEFORE_MORE:
        return True
    if known in BEFORE_NUMBERS or known in MONTHS:
        return rest[:1].isdigit()
    if alone and word.isdecimal() and len(word) <= 3:
        return True  # the number of a list's item
    initial = len(word) == 1 and word.isalpha() and word.isupper()
    return (initial or known in MAYBE_LAST or _DOTTED.fullmatch(word) is not None) and not opens
