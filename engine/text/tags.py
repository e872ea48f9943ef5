"""What stands between angle brackets: emotion tags are kept, other tags dropped; control tokens never survive."""

from __future__ import annotations

import re
from typing import Final

from engine.prompt import strip_control_text

EMOTION_TAGS: Final = frozenset(["laugh", "chuckle", "sigh", "cough", "sniffle", "groan", "yawn", "gasp"])
"""Those that Orpheus is trained on."""

# An opening, closing or empty element; attributes need values, for "a <b and c> d" is arithmetic.
_TAG: Final = re.compile(
    r"</?([^\W\d][\w:.-]{0,40})"
    r"""(?:\s{1,9}[\w:.-]{1,40}\s?=\s?(?:"[^"<>]{0,400}"|'[^'<>]{0,400}'|[^\s"'<>]{1,400}))*\s{0,9}/?>"""
)
_COMMENT: Final = re.compile(r"<!--[^<>]*-->|<[!?][A-Za-z][^<>]*>")
_INLINE: Final = re.compile(r"a|b|i|u|s|em|strong|span|sub|sup|small|mark|code|tt|font|ins|del")
_BLOCK: Final = re.compile(r"p|br|li|div|tr|h[1-6]|[uo]l|table|hr|section|article")
# The spellings that no tokenizer knows, but that a normaliser of characters could turn into one that it does.
_CONTROL: Final = re.compile(
    r"[<＜]\s{0,9}(?:[|｜][^<>|＜＞｜]{0,99}[|｜]|custom_[\s\w]{0,99})\s{0,9}[>＞]", re.IGNORECASE
)
# No letters of any script: controls, soft hyphens, zero-width spaces, marks of direction, the byte order mark.
_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\uffff]"
)


def printable(text: str) -> str:
    """The text's whole and visible characters, without control tokens in any spelling."""
    # Half a surrogate pair is no character; it cannot even be sent.
    text = _INVISIBLE.sub("", text.encode("utf-8", "ignore").decode())
    return _CONTROL.sub(" ", strip_control_text(text))


def drop_tags(text: str) -> str:
    """Removes every tag that is no emotion; the end of a block is the end of a paragraph."""
    return _TAG.sub(_kept, _COMMENT.sub(" ", text)) if "<" in text else text


def _kept(tag: re.Match[str]) -> str:
    name = tag[1].lower()
    if name in EMOTION_TAGS:
        return "" if tag[0].startswith("</") else f"<{name}>"
    return "" if _INLINE.fullmatch(name) else "\n\n" if _BLOCK.fullmatch(name) else " "
