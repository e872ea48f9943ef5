"""Emoji and other pictures are no speech: they are dropped."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_ARROWS: Final = 0x2190  # below it, "So" is ©, ®, °, ¦ and the like, which are text


def _pictures() -> str:
    """The characters of Unicode's class "other symbol" from the arrows on, as ranges of a regex class."""
    ranges: list[list[int]] = []
    for code in (*range(_ARROWS, 0x3190), 0x3297, 0x3299, *range(0x1F000, 0x1FC00)):
        if unicodedata.category(chr(code)) not in ("So", "Sk"):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    # What Python's tables do not know yet lies between what they know.
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in ranges) + "\U0001f900-\U0001faff\U0001f1e6-\U0001f1ff"


# Variation selectors, keycaps, joiners between pictures and the tags of flags go with them.
_PICTURES: Final = f"(?:[{_pictures()}][\ufe0e\ufe0f\u20e3\u200d\U000e0020-\U000e007f]*)+"
_EMOJI: Final = re.compile(rf"{_PICTURES}|[\ufe0e\ufe0f\u20e3]")
# "Rome 🇮🇹: what to see" gets its colon back; the space before a French colon is its own.
_TITLE: Final = re.compile(rf"(?<=\w)[^\S\n]?{_PICTURES}:(?=\s|$)")
_SMILEY: Final = re.compile(r"(?<!\S)(?:[:;=8][-'^o]?[)(\]\[DPpOo|*/\\]|<3|\^[_.]?\^|xD|XD)(?!\w)")


def drop_emoji(text: str) -> str:
    """Without emoji, pictograms and smileys made of punctuation; 3️⃣ is 3."""
    return _SMILEY.sub("", text if text.isascii() else _EMOJI.sub(" ", _TITLE.sub(":", text)))
