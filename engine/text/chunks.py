"""A request's text -> the chunks that are spoken one after another, and how long to pause between them.

A chunk ends where a sentence ends, if it can: models of this family are trained on single utterances and lose their
voice and their pace on long ones. Emotion tags such as <laugh> are never split.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final
from unicodedata import east_asian_width

from engine.text.sentences import clauses, paragraphs, sentences
from engine.text.tags import printable

MAX_CHUNK_CHARS: Final = 280
_TARGET: Final = 0.5
"""The length that chunks are drawn to, as a share of the limit."""
_FIRST_TARGET: Final = 0.4
"""The same for the first: its prompt is read before anything is heard."""
_TOO_LONG: Final = 2.5
"""How much worse a long chunk is than a short one: a model may stop after a sentence, and the rest would be lost."""
_SMALL: Final = 0.1
"""Sentences shorter than this share of the limit are joined before anything else."""
_TINY: Final = 0.04
_SPACE = re.compile(r"\S*\s+|\S+")
_TAG = re.compile(r"<\w+>")
_UNSTOPPED = re.compile(r"[A-Za-z0-9À-ɏ)\]%°]\s*$")


class Boundary(Enum):
    """What ends where a piece of text ends: (seconds of quiet after it, what a cut there costs, a join there)."""

    WORD = (0.0, 4.0, 0.0)
    CLAUSE = (0.25, 1.5, 0.0)
    SENTENCE = (0.45, 0.2, 0.0)
    LINE = (0.5, 0.1, 0.4)
    PARAGRAPH = (0.6, 0.0, 0.9)

    def __init__(self, pause: float, cut: float, join: float) -> None:
        self.pause, self.cut, self.join = pause, cut, join


@dataclass(frozen=True)
class TextChunk:
    """A piece of text to speak in one go, and the seconds of quiet wanted between it and the next."""

    text: str
    pause: float


@dataclass(frozen=True)
class _Piece:
    text: str
    end: Boundary


def chunks(text: str, limit: int = MAX_CHUNK_CHARS) -> list[TextChunk]:
    """Chunks of at most `limit` characters, in order, together all of the text's words. Empty for text without any."""
    text = printable(text)
    if not any(character.isalnum() for character in text):
        return []
    pieces = [piece for paragraph in paragraphs(text) for piece in _paragraph(paragraph, limit)]
    groups = _grouped(_worded(pieces, limit), limit)
    # The quiet after the last one is the listener's own.
    pauses = [group[-1].end.pause for group in groups[:-1]] + [0.0]
    return [TextChunk(_joined(group), pause) for group, pause in zip(groups, pauses, strict=True)]


def frame_budget(chunk: str) -> int:
    """The most frames that a chunk may take: far above a slow reader's need, so that only a runaway meets it.

    4 s, and for each letter a sixth of a second: readers take a tenth, slow ones an eighth. Half a second for what is
    read as a syllable or a word: a digit, a Chinese, Japanese or Korean character.
    """
    whole = sum(character.isdigit() or east_asian_width(character) in "WF" for character in chunk)
    return 48 + 2 * (len(chunk) - whole) + 6 * whole


def _paragraph(lines: list[str], limit: int) -> list[_Piece]:
    pieces = [piece for line in lines for piece in _line(line, limit)]
    return [*pieces[:-1], _Piece(pieces[-1].text, Boundary.PARAGRAPH)]


def _line(line: str, limit: int) -> list[_Piece]:
    """A line as sentences, and parts of long ones, none over the limit; small ones are joined."""
    pieces: list[_Piece] = []
    for sentence in sentences(line):
        parts = _within(sentence, limit)
        for index, part in enumerate(parts):
            end = Boundary.SENTENCE if index == len(parts) - 1 else part.end
            small = pieces and pieces[-1].end is Boundary.SENTENCE and len(pieces[-1].text) < _SMALL * limit
            if small and len(pieces[-1].text + part.text) <= limit:
                pieces[-1] = _Piece(pieces[-1].text + part.text, end)
            else:
                pieces.append(_Piece(part.text, end))
    return [*pieces[:-1], _Piece(pieces[-1].text.rstrip() + " ", Boundary.LINE)]


def _within(sentence: str, limit: int) -> list[_Piece]:
    """A sentence cut at clauses, else at spaces, else anywhere, so that no piece exceeds `limit`."""
    if len(sentence.rstrip()) <= limit:
        return [_Piece(sentence, Boundary.SENTENCE)]
    for parts, end in ((clauses(sentence), Boundary.CLAUSE), (_SPACE.findall(sentence), Boundary.WORD)):
        if len(parts) > 1:
            return [piece for part in _evenly(parts, limit) for piece in _at(part, end, limit)]
    return [_Piece(part, Boundary.WORD) for part in _cut_anywhere(sentence, limit)]


def _at(part: str, end: Boundary, limit: int) -> list[_Piece]:
    """What `_evenly` made, cut further if one part alone was too long."""
    if len(part.rstrip()) <= limit:
        return [_Piece(part, end)]
    *most, last = _within(part, limit)
    return [*most, _Piece(last.text, end)]


def _evenly(parts: list[str], limit: int) -> list[str]:
    """Joins parts up to a length at which all come out about equally long."""
    total = sum(map(len, parts))
    share = total / -(-total // limit)
    packed: list[str] = []
    for part in parts:
        full = not packed or len((packed[-1] + part).rstrip()) > limit
        # Nearer to its share with the part than without?
        if full or abs(len(packed[-1]) + len(part) - share) > abs(len(packed[-1]) - share):
            packed.append(part)
        else:
            packed[-1] += part
    return packed


def _cut_anywhere(word: str, limit: int) -> list[str]:
    pieces = []
    while len(word) > limit:
        opened = word.rfind("<", 0, limit)
        tag = _TAG.match(word, opened) if opened > 0 else None
        cut = opened if tag and tag.end() > limit else limit
        pieces.append(word[:cut])
        word = word[cut:]
    return [*pieces, word]


def _worded(pieces: list[_Piece], limit: int) -> list[_Piece]:
    """No piece without a word, which a model would fill with noise, and few tiny ones: both join what is before."""
    kept: list[_Piece] = []
    for piece in pieces:
        tiny = kept and (len(kept[-1].text) < _TINY * limit or not _has_word(piece) or not _has_word(kept[-1]))
        if tiny and len((joined := _stopped(kept[-1]) + piece.text).rstrip()) <= limit:
            kept[-1] = _Piece(joined, piece.end)
        else:
            kept.append(piece)
    return [piece for piece in kept if _has_word(piece)]


def _has_word(piece: _Piece) -> bool:
    return any(character.isalnum() for character in piece.text)


def _grouped(pieces: list[_Piece], limit: int) -> list[list[_Piece]]:
    """The cheapest grouping: chunks near the target length, cut at the best boundaries, the last one not tiny."""
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(pieces) + 1):
        options = []
        length = joins = 0.0
        for start in range(end - 1, -1, -1):
            length += len(pieces[start].text)
            if start < end - 1:
                joins += pieces[start].end.join
            if start < end - 1 and length - 1 > limit:
                break
            target = limit * (_TARGET if start else _FIRST_TARGET)
            over = length / target - 1
            cost = (_TOO_LONG if over > 0 else 1) * over**2 + joins + pieces[end - 1].end.cut
            options.append((best[start][0] + cost, start))
        best.append(min(options))
    groups: list[list[_Piece]] = []
    end = len(pieces)
    while end:
        start = best[end][1]
        groups.append(pieces[start:end])
        end = start
    return groups[::-1]


def _joined(group: list[_Piece]) -> str:
    """A line that ends without a stop gets one where the next is spoken on: a model does not see line breaks."""
    *most, last = group
    return "".join([*(_stopped(piece) for piece in most), last.text]).strip()


def _stopped(piece: _Piece) -> str:
    line = piece.end in (Boundary.LINE, Boundary.PARAGRAPH)
    return piece.text.rstrip() + ". " if line and _UNSTOPPED.search(piece.text) else piece.text
