"""Whether a text is English, so that English number words would not be put into a French one."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

# Words of two letters and more; not the parts of addresses.
_WORDS: Final = re.compile(r"(?<![\w./@:-])(?:[^\W\d_]{2,}|[cjCJ](?=['’]))(?:['’][^\W\d_]+)?(?![\w/@]|\.\w)")
_ACCENTED: Final = re.compile("[¿¡À-ÖØ-öø-ɏ]")
# Words that hold a sentence together. None is in two lists, so a vote is a vote.
_ENGLISH: Final = (
    "the and of to is it you that for with this are be have at not by from they we his her was were will he she has "
    "had or on my your our their what which who when can do does if there been would could an as its how than then "
    "these those into about after before between until every each more most some any other only just please found "
    "should may might did get make take add use see day days year years hour hours people"
)
_OTHERS: Final = (
    "der die das und ist nicht ein eine mit auf den dem von zu für sich auch es wird sind wir ich sie haben wie viel "
    "danke bitte guten hallo kostet preis jahr jahre uhr nur noch oder aber januar "
    "februar märz juni juli oktober dezember",
    "le la les des et est une dans pour que qui pas sur avec au du je vous nous il elle sont ont c'est j'ai "
    "bonjour merci prix mais ans cette très janvier février mai juin juillet août septembre octobre décembre",
    "el la los las una por con para que es se del como más pero su al yo está muy son y hola tengo tiene gracias "
    "años precio enero febrero marzo abril junio julio agosto septiembre octubre diciembre",
    "il lo la gli della di che non per una sono con come più ma nel si è ho hai ciao grazie abbiamo anni prezzo alle "
    "gennaio febbraio maggio giugno luglio settembre ottobre dicembre",
    "os um uma não com para por que do da dos das em você é são mais",
    "het een van niet dat op te zijn voor met aan er maar ook ik je",
    "och att det som på är av för inte jag den med har till",
    "na się nie z do jest że to jak po co ale",
)
_OURS: Final = frozenset(_ENGLISH.split())
# English too, or a part of names and of quoted Latin: "met 5 people", "Los Angeles", "Smith et al.", "Est. 1999".
_DOUBTFUL: Final = (
    "die pour come per met van den till ale son al est op con med et la los las el del le de sur des du es se no su "
    "ma si lo war don art da dos das com na"
)
_UNSURE: Final = frozenset(_DOUBTFUL.split())
_FOREIGN: Final = tuple(frozenset(words.split()) - _OURS for words in _OTHERS)
_CUES: Final = re.compile(r"[a-zé]['’]s\b|\d(?:st|nd|rd|th)\b|n['’]t\b")
_NAME: Final = re.compile(r"\b(?:Los|Las|La|El|Le|Les|De|Del|Des|Di|Da|Du|Van|Von|Al|Il|Das|Die)\s(?=[A-Z])")
# One Greek letter is a sign: 10 μm, 5σ.
_SIGN: Final = re.compile("(?<![Ͱ-Ͽ])[Ͱ-Ͽ](?![Ͱ-Ͽ])")
_MIXED: Final = 0.3
"""The share of letters from other alphabets above which a text is not English."""


def is_english(text: str) -> bool:
    """By its alphabet, then by a vote of its small words; a text without any is taken for English."""
    text = _SIGN.sub("", text)
    letters = sum(character.isalpha() for character in text)
    latin = sum(character.isalpha() and character < "\u0250" for character in text)
    if letters and 1 - latin / letters > _MIXED:
        return False
    words = _WORDS.findall(_NAME.sub("", text))
    counts = Counter(word.lower().replace("’", "'") for word in words if not word.isupper())
    ours = sum(counts[word] for word in _OURS) + (_CUES.search(text) is not None)
    theirs = max(_votes(counts, words) for words in _FOREIGN)
    return ours >= theirs if ours or theirs else _ACCENTED.search(text) is None


def _votes(counts: Counter[str], words: frozenset[str]) -> int:
    """The words of one language; doubtful ones are none without another."""
    found = {True: 0, False: 0}
    for word in words:
        found[word in _UNSURE] += counts[word]
    doubtful, sure = found[True], found[False]
    return sure + doubtful if sure or doubtful > 1 else 0
