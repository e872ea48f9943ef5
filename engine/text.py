"""A request's text -> the chunks that are spoken one after another.

A chunk ends where a sentence ends, if it can: models of this family are trained on single utterances and lose their
voice and their pace on long ones. Emotion tags such as <laugh> are never split.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from engine.prompt import strip_control_text

MAX_CHUNK_CHARS: Final = 280
_CLOSING: Final = "[\"'”’)\\]]*"
_SENTENCE_END = re.compile(rf"[.!?…]{_CLOSING}(?=\s)|[。！？]{_CLOSING}")
_CLAUSE_END = re.compile(r"[,;:—–](?=\s)|[，；、]")
_SPACE = re.compile(r"\s+")
_TAG = re.compile(r"<\w+>")
_ABBREVIATIONS: Final = frozenset(
    ["mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "e.g", "i.e", "no", "fig", "jr", "sr"]
)


def chunks(text: str, limit: int = MAX_CHUNK_CHARS) -> list[str]:
    """Pieces of at most `limit` characters, in order, together all of the text's words. Empty for text without any."""
    pieces: list[str] = []
    # Half a surrogate pair is no character; it cannot even be sent.
    text = strip_control_text(text.encode("utf-8", "ignore").decode())
    if not any(character.isalnum() for character in text):
        return []
    for sentence in _sentences(" ".join(text.split())):
        for piece in _within(sentence, limit):
            if pieces and len(pieces[-1] + piece) <= limit // 2:
                pieces[-1] += piece
            else:
                pieces.append(piece)
    return [stripped for piece in pieces if (stripped := piece.strip())]


def frame_budget(chunk: str) -> int:
    """The most frames that a chunk may take: far above a slow reader's need, so that only a runaway meets it."""
    return 48 + 3 * len(chunk)


def _sentences(text: str) -> list[str]:
    sentences: list[str] = []
    for part in _cut_after(_SENTENCE_END, text):
        if sentences and _ends_in_abbreviation(sentences[-1]):
            sentences[-1] += part
        else:
            sentences.append(part)
    return sentences


def _cut_after(end: re.Pattern[str], text: str) -> list[str]:
    """Pieces that close with a match of `end`, and what is left; together the whole text, spaces included."""
    cuts = [0, *(match.end() for match in end.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def _cut_anywhere(word: str, limit: int) -> list[str]:
    pieces = []
    while len(word) > limit:
        opened = word.rfind("<", 0, limit)
        tag = _TAG.match(word, opened) if opened > 0 else None
        cut = opened if tag and tag.end() > limit else limit
        pieces.append(word[:cut])
        word = word[cut:]
    return [*pieces, word]


def _ends_in_abbreviation(sentence: str) -> bool:
    last = (sentence.split() or [""])[-1]
    return last.endswith(".") and (last[:-1].lower() in _ABBREVIATIONS or re.fullmatch(r"[A-Z]\.", last) is not None)


def _within(sentence: str, limit: int) -> list[str]:
    """A sentence cut at clauses, else at spaces, else anywhere, so that no piece exceeds `limit`."""
    if len(sentence) <= limit:
        return [sentence]
    clauses = _cut_after(_CLAUSE_END, sentence)
    parts = clauses if len(clauses) > 1 else _cut_after(_SPACE, sentence)
    if len(parts) == 1:
        return _cut_anywhere(sentence, limit)
    packed: list[str] = []
    for part in parts:
        if packed and len(packed[-1] + part) <= limit:
            packed[-1] += part
        else:
            packed.append(part)
    return [piece for part in packed for piece in _within(part, limit)]
