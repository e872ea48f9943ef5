"""Abbreviations that a voice would stumble over -> words; what else may be meant by them decides by its neighbours."""

from __future__ import annotations

import re
from typing import Final

from engine.text.lexicon import OPENERS

_TITLES: Final = {
    "Mr": "Mister",
    "Mrs": "Missus",
    "Ms": "Ms",
    "Dr": "Doctor",
    "Prof": "Professor",
    "Rev": "Reverend",
    "Hon": "Honorable",
    "Gen": "General",
    "Col": "Colonel",
    "Maj": "Major",
    "Capt": "Captain",
    "Lt": "Lieutenant",
    "Sgt": "Sergeant",
    "Gov": "Governor",
    "Adm": "Admiral",
    "Cmdr": "Commander",
    "Cpl": "Corporal",
    "Sen": "Senator",
    "Rep": "Representative",
    "Pres": "President",
    "St": "Saint",
    "Mt": "Mount",
    "Ft": "Fort",
}
_AFTER_NAMES: Final = {
    "St": "Street",
    "Ave": "Avenue",
    "Blvd": "Boulevard",
    "Rd": "Road",
    "Dr": "Drive",
    "Ln": "Lane",
    "Hwy": "Highway",
    "Jr": "Junior",
    "Sr": "Senior",
    "Inc": "Incorporated",
    "Corp": "Corporation",
    "Ltd": "Limited",
    "Co": "Company",
    "Bros": "Brothers",
}
_NUMBERED: Final = {
    "no": "number",
    "nos": "numbers",
    "nr": "number",
    "fig": "figure",
    "figs": "figures",
    "vol": "volume",
    "vols": "volumes",
    "ch": "chapter",
    "chap": "chapter",
    "sec": "section",
    "sect": "section",
    "p": "page",
    "pp": "pages",
    "para": "paragraph",
    "eq": "equation",
    "ref": "reference",
    "op": "opus",
    "ver": "version",
    "bldg": "building",
    "hwy": "highway",
    "ext": "extension",
    "apt": "apartment",
    "ste": "suite",
    "est": "established",
}
_PHRASES: Final = {
    "e.g": "for example",
    "i.e": "that is",
    "vs": "versus",
    "approx": "approximately",
    "dept": "department",
    "incl": "including",
    "excl": "excluding",
    "misc": "miscellaneous",
    "govt": "government",
    "a.k.a": "also known as",
}
_NOUNS: Final = ("department", "government")
# Short for these only before a number: "This is Max. He is tall." "Wait a min."
_BOUNDS: Final = {"max": "maximum", "min": "minimum", "avg": "average"}
_COMPASS: Final = {"N": "North", "S": "South", "E": "East", "W": "West"}
_STARTERS: Final = "|".join(word.capitalize() for word in sorted(OPENERS))
# A full stop that also ends the sentence is kept.
_LAST: Final = rf"(?=\s*$|\s*\n|\s+(?:{_STARTERS})\b|\s<[a-z]{{3,9}}>\s[A-Z]|[\"”’')\]]+(?:\s*$|\s+[A-Z]))"

_OPENS: Final = re.compile(rf"\s+(?:{_STARTERS})\b")
_NAME_BEFORE: Final = re.compile(
    r"\b(?!(?:Vitamin|Plan|Type|Class|Grade|Section|Part|Option|Team|Group|Appendix)\s)[A-Z][a-z]+,?\s$"
)
_TITLE: Final = re.compile(rf"(?<![\w.])({'|'.join(_TITLES)})\.(?=\s[A-Z])")
_BARE_TITLE: Final = re.compile(r"\b(?:(Mr|Mrs|Ms|Dr|Prof)(?=\s[A-Z][a-z])|(Mr|Mrs|Ms|Prof)\.?(?=\s(?:&|and)\s))")
_CALLED: Final = re.compile(r"(?:\b[A-Z][\w'’&-]*|\d(?:st|nd|rd|th)?)$")
_STREET: Final = re.compile(r"(?<=\d(?:st|nd|rd|th) )(St|Ave|Blvd|Rd|Ln|Dr)\b(?!\.)")
_AFTER: Final = re.compile(rf"(?<=\w)(,?\s)({'|'.join(_AFTER_NAMES)})\.({_LAST})?")
_NUMBER: Final = re.compile(rf"(?<![\w.-])({'|'.join(_NUMBERED)})\.\s?(?=\(?\d)", re.IGNORECASE)
_BOUND: Final = re.compile(rf"(?<![\w.])(?<!\d\s)({'|'.join(_BOUNDS)})\.(?=\s(?:\d|of\s))", re.IGNORECASE)
_ITEM: Final = re.compile(
    r"(?i:(\b(?:tracking|serial|model|part|order|account|reference|policy|invoice|phone|conf\.)) no\.)(?=\s)"
)
_CIRCA: Final = re.compile(r"(?<![\w.])c\.\s?(?=\d{3,4}\b)")
_CORNER: Final = re.compile(
    r"((?:\b\d{1,5}|\bonto|\bon)\s)([NSEW])(?:\.|(?=\s\d))(?=\s(?:[A-Z][a-z]|\d{1,3}(?:st|nd|rd|th)\b))"
)
_PHRASE: Final = re.compile(
    rf"(?<![\w.])(?<!\d\s)({'|'.join(map(re.escape, _PHRASES))})\.(,?)((?-i:{_LAST}))?", re.IGNORECASE
)
_VERSUS: Final = re.compile(r"(?<=\s)(?i:vs)(?=\s)|(?<=[a-z.)] )v\.(?= [A-Z])")
_ETC: Final = re.compile(rf"(?<![\w/.])etc(?:\.((?-i:{_LAST}|(?=\s[A-Z][a-z])))?|(?![\w/]))", re.IGNORECASE)
_DOTTED: Final = re.compile(rf"(?<![\w.])((?:[A-Za-z]\.){{2,9}})(?![\w])({_LAST})?")
_INITIALS: Final = re.compile(r"(?<![\w.])((?:[A-Z]\.\s?){1,4})(?=[A-Z][a-z]+)")
_DEGREE: Final = re.compile(rf"\b(Ph|Ed|Psy)\.\s?D\.({_LAST})?")
_WITH: Final = re.compile(r"(?<!\w)(w/o(?!\w)|w/(?=\s\w|\w\w)|b/c(?!\w))\s?")
_WITHS: Final = {"w/o": "without ", "w/": "with ", "b/c": "because "}


def speak_abbreviations(text: str) -> str:
    """Every known abbreviation in full; letters with full stops without them: the U.S. economy, J. R. R. Tolkien."""
    text = _TITLE.sub(_title, text)
    text = _BARE_TITLE.sub(lambda m: _TITLES[m[1] or m[2]], text)
    text = _STREET.sub(lambda m: _AFTER_NAMES[m[1]], text)
    text = _AFTER.sub(_after, _CORNER.sub(lambda m: m[1] + _COMPASS[m[2]], text))
    text = _CIRCA.sub("circa ", _BOUND.sub(_bound, text))
    text = _NUMBER.sub(_number, _ITEM.sub(r"\1 number", text))
    text = _VERSUS.sub("versus", _PHRASE.sub(_phrase, text))
    text = _ETC.sub(lambda m: "et cetera" + _stop(m[1]), text)
    text = _DEGREE.sub(lambda m: m[1] + "D" + _stop(m[2]), text)
    text = _INITIALS.sub(_initials, text)
    text = _DOTTED.sub(lambda m: _bare(m[1]) + _stop(m[2]), text)
    return _WITH.sub(lambda m: _WITHS[m[1]], text)


def _title(found: re.Match[str]) -> str:
    """ "Dr." before a name; "Elm Dr." at the end of a sentence is left for what comes after names."""
    street = found[1] in _AFTER_NAMES and _NAME_BEFORE.search(found.string, max(0, found.start() - 40), found.start())
    return found[0] if street and _OPENS.match(found.string, found.end()) else _TITLES[found[1]]


def _after(found: re.Match[str]) -> str:
    """ "5th Ave.", "Acme Inc.": only after what may be a name."""
    if not _CALLED.search(found.string, max(0, found.start() - 40), found.start()):
        return found[0]
    return found[1] + _AFTER_NAMES[found[2]] + _stop(found[3])


def _number(found: re.Match[str]) -> str:
    # "I said no. 5 people left." "At 5 P M EST."
    if found[1] in ("no", "op", "ref") or (found[1].isupper() and len(found[1]) > 1):
        return found[0]
    word = _NUMBERED[found[1].lower()]
    return (word.capitalize() if found[1][0].isupper() else word) + " "


def _phrase(found: re.Match[str]) -> str:
    word = _PHRASES[found[1].lower()]
    return (
        (word.capitalize() if found[1][0].isupper() and len(found[1]) > 1 else word)
        + found[2]
        + (_stop(found[3]) if word in _NOUNS else "")
    )


def _bound(found: re.Match[str]) -> str:
    word = _BOUNDS[found[1].lower()]
    return word.capitalize() if found[1][0].isupper() else word


def _initials(found: re.Match[str]) -> str:
    """The initials of a name. One alone may be a grade at the end of a sentence, unless a name is before it."""
    letters = [letter for letter in found[1] if letter.isalpha()]
    named = _NAME_BEFORE.search(found.string, max(0, found.start() - 40), found.start())
    opens = _OPENS.match(" " + found.string[found.end() : found.end() + 12])
    return found[0] if opens or (len(letters) == 1 and not named) else " ".join(letters) + " "


def _bare(letters: str) -> str:
    return " ".join(letter for letter in letters if letter != ".")


def _stop(ends: str | None) -> str:
    return "" if ends is None else "."
