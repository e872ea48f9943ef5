"""Whether a text is English, so that English number words would not be put into a French one."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

# Words of two letters and more; not the parts of addresses.
_WORDS: Final = re.compile(r"(?<![\w./@:-])[^\W\d_]{2,}(?:['’][^\W\d_]+)?(?![\w/@]|\.\w)")
_ACCENTED: Final = re.compile("[À-ÖØ-öø-ɏ]")
# Words that hold a sentence together. None is in two lists, so a vote is a vote.
_ENGLISH: Final = (
    "the and of to is it you that for with this are be have at not by from they we his her was were will he she has "
    "had or on my your our their what which who when can do does if there been would could an as"
)
_OTHERS: Final = (
    "der das und ist nicht ein eine mit auf den dem von zu für sich auch es wird sind wir ich sie haben",
    "le la les des et est une dans pour que qui pas sur avec au du je vous nous il elle sont ont c'est",
    "el los las una por con para que es se del como más pero su al yo está muy son y",
    "il lo gli della di che non per una sono con come più ma nel si è ho hai",
    "os um uma não com para por que do da dos das em você é são mais",
    "het een van niet dat op te zijn voor met aan er maar ook ik je",
    "och att det som på är av för inte jag den med har till",
    "na się nie z do jest że to jak po co ale",
)
_FOREIGN: Final = frozenset(word for words in _OTHERS for word in words.split()) - frozenset(_ENGLISH.split())
_OURS: Final = frozenset(_ENGLISH.split())
_MIXED: Final = 0.3
"""The share of letters from other alphabets above which a text is not English."""


def is_english(text: str) -> bool:
    """By its alphabet, then by a vote of its small words; a text without any is taken for English."""
    letters = sum(character.isalpha() for character in text)
    latin = sum(character.isalpha() and character < "\u0250" for character in text)
    if letters and 1 - latin / letters > _MIXED:
        return False
    counts = Counter(word.lower() for word in _WORDS.findall(text) if not word.isupper())
    ours = sum(counts[word] for word in _OURS)
    theirs = sum(counts[word] for word in _FOREIGN)
    return ours >= theirs if ours or theirs else _ACCENTED.search(text) is None
