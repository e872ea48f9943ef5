"""Markdown -> the text that a reader would read out: marks gone, words kept, each block a paragraph or a line."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

# Prose without any of these characters needs no parser.
_MARKS: Final = re.compile(r"[*_`~\[\]\\|]|^\s{0,3}(?:#{1,6}\s|>|[-+•]\s|\d{1,9}[.)]\s|[-=*_]{2,}\s*$)", re.MULTILINE)
_MOST_BRACKETS: Final = 400
_ENTITY: Final = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,30});")
_BULLET: Final = re.compile(r"^(\s{0,3})[•‣◦▪●]\s", re.MULTILINE)
_FOOTNOTE: Final = re.compile(r"\[\^[\w-]{1,30}\]:?")
# ">90%" compares; "> 5 apples" may be quoted.
_MORE: Final = re.compile(r"^(\s{0,3})>(?=\d|=\s?\d)", re.MULTILINE)
_TIMES: Final = re.compile(r"(?<=\d)\*(?=\d)")
_FORMULA: Final = re.compile(
    r"(?<![\w$\\])(\${1,2})(?=[^\s$\d])([^$\n]{0,200}[\\^_=][^$\n]{0,200}|[A-Za-z])(?<=\S)\1(?![\w$])"
)
_CITED: Final = re.compile(r"(?<=[.!?,;])(?:\[\d{1,3}\]){1,9}(?=\s|$)")
# An item or a row ends where its line does: once the marks are gone, nothing else would say so.
_UNSTOPPED: Final = re.compile("[A-Za-z0-9À-ɏ)\\]%°\u2600-\u27bf\ufe0f\U0001f300-\U0001faff]$")
_TASK: Final = re.compile(r"^\[[ xX]\]\s")


def plain(text: str) -> str:
    """The text without markup and HTML entities; blocks are apart by a blank line, items and rows by a line feed."""
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    if not _MARKS.search(text):
        return _FORMULA.sub(r"\2", text)
    text = _CITED.sub("", _MORE.sub(r"\1\\>", _TIMES.sub(r"\\*", _FORMULA.sub(r"\2", text))))
    # To pair brackets takes time that grows with the square of their number.
    text = text.replace("[", " ") if text.count("[") > _MOST_BRACKETS else text
    tokens = _parser().parse(_FOOTNOTE.sub("", _BULLET.sub(r"\1- ", text)))
    return "".join(part for block in _blocks(tokens) for part in block).strip()


@cache
def _parser() -> MarkdownIt:
    # Tags and entities are looked after elsewhere; "[Anna]: Hi!" is a line of a play; four spaces are no program.
    rules = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return rules.disable(["html_block", "html_inline", "entity", "reference", "code"])


def _blocks(tokens: list[Token]) -> Iterator[tuple[str, str]]:
    """(text, what separates it from the next) of each block."""
    depth, marker, cells, kind = 0, "", [], ""
    for token in tokens:
        if token.type.endswith(("list_open", "list_close", "table_open", "table_close")):
            depth += token.nesting
            yield "", "" if depth else "\n"
        elif token.type == "list_item_open":
            marker = f"{token.info}. " if token.info else ""
        elif token.type == "tr_close":
            yield _ended(", ".join(cell for cell in cells if cell)), "\n"
            cells = []
        elif token.type == "inline" and kind in ("td_open", "th_open"):
            cells.append(_inline(token))
        elif token.type in ("inline", "fence"):
            words = marker + _TASK.sub("", _inline(token))
            yield (_ended(words), "\n") if depth else (words, "\n\n")
            marker = ""
        kind = token.type


def _ended(words: str) -> str:
    return words + "." if _UNSTOPPED.search(words) else words


def _inline(token: Token) -> str:
    """The words of a block; a picture's are its description."""
    if token.children is None:
        return token.content.strip()
    breaks = ("softbreak", "hardbreak")
    return "".join("\n" if child.type in breaks else child.content for child in token.children)
