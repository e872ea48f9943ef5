"""Signs -> words where they are words; what is left of decoration is dropped."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from engine.text.numerals import ONES, TENS

_BETWEEN_NUMBERS: Final = {
    "+": "plus",
    "=": "equals",
    "*": "times",
    "×": "times",
    "·": "times",
    "÷": "divided by",
    "^": "to the power of",
    "−": "minus",
    "-": "minus",
    "<": "is less than",
    ">": "is greater than",
}
_ALWAYS: Final = {
    "≤": "at most",
    "≥": "at least",
    "≠": "is not equal to",
    "≈": "about",
    "±": "plus or minus",
    "→": "to",
    "⇒": "so",
    "∞": "infinity",
    "√": "the square root of ",
    "§": "section",
    "¶": "paragraph",
    "©": "copyright",
    "µ": "micro",
    "π": "pi",
    "°": "degrees",
}
# A sum of money is words by now.
_AMOUNT: Final = rf"(?:[$£€]?\.?\d|(?:{'|'.join([*ONES, *TENS])})\b)"
_OPERATOR: Final = re.compile(r"(?<=[\w)])(\s?)([+=×·÷^−*]|(?<=\s)[-<>])(\s?)(?=[-−]?(?:\d|[a-zA-Z]\b|\())")
_KEY: Final = re.compile(
    r"(?i:\b(press|hit|dial|enter|push|or)\s)(\*(?=\d)|[#*](?=\s|[.,;!?]|$))|(?i:\b(the)\s)([#*])(?=\s(?:key|button|sign|symbol)\b)"
)
_COUNT: Final = re.compile(r"(?<!\S)#(?= of\b)")
_POWER: Final = re.compile(r"(?<=[A-Za-z)])\^(?:([23])(?!\d|\.\d)|\(?([-−]?\w{1,9})\)?)")
_RELATED: Final = re.compile(r"(?<=\b[A-Za-z])(\s?)([<>≤≥])(=?)\s?(?=[-−]?\.?\d)")
_RELATIONS: Final = {"<": "less than", ">": "greater than", "≤": "at most", "≥": "at least"}
_ASSIGNED: Final = re.compile(r"(?<=[^\W\d])=(?=[-−]?\.?\d)")
_ZONE: Final = re.compile(r"\b(UTC|GMT)\s?([+−-])\s?(?=\d)")
_SIGNED: Final = re.compile(r"(?<![\w)\]%+])\+(?=\.?\d)")
_EACH: Final = re.compile(
    r"(?:(?<=\d)|(?<=[a-z]{3}s)|(?<=\breq))/(?=(?:second|sec|minute|min|hour|hr|day|night|week|month|year|person)\b)"
)
_TEN: Final = re.compile(r"(?<=\d)\s?x\s?(?=10(?:\^|[⁻⁰¹²³⁴-⁹]))")
_DIVIDED: Final = re.compile(r"(?<=\d)\s?/\s?(?=\d{1,9}\s?=)")
_COMPARED: Final = re.compile(rf"(?<![\w<>])([<>])(=?)\s?(?={_AMOUNT})")
_ABOUT: Final = re.compile(rf"(?<!\w)~\s?(?={_AMOUNT})")
_EQUALS: Final = re.compile(r"(?<=[\w!)%°])[^\S\n](!)?={1,3}[^\S\n](?=[-−(]?\w)")
_PLUS: Final = re.compile(r"(?<=\w)\s\+\s(?=\w)|(?<=[A-Za-z])\+\+|(?<=[\d%])\+(?!\w)")
_SQUARED: Final = re.compile(r"(?<=[A-Za-z)])([²³])(?!\w)")
_AND: Final = re.compile(r"(?<=\w)\s?&\s?(?=\w)|(?<=\s)&(?=\s)")
_AT: Final = re.compile(r"(?<!\w)@(?=\w)|(?<=\s)@(?=\s)")
_HASH: Final = re.compile(r"(?<![\w&])#(?=[^\W\d])|(?<=\b[A-Z])#(?!\w)")
_ITEM: Final = re.compile(
    r"(?i:\b(?:order|ticket|case|invoice|unit|apt|reference|booking|item|claim|part|model|account)\.?\s)$"
)
_CODE: Final = re.compile(r"[A-Z]{1,5}-?\d")
_SLASH: Final = re.compile(r"(?<=[A-Za-z])/(?=\w)")
_ARROW: Final = re.compile(r"\s?(?:-{1,2}>|=>|⟶|➔|➜)\s?")
_DASH: Final = re.compile(r"(?<=\w)--(?=[\w\s])|(?<=\s)--(?=\s)")
_SIGN: Final = re.compile(f"\\s?([{''.join(_ALWAYS)}])\\s?")
_DECORATION: Final = re.compile(r"={2,}|[®™℠*_|\\^`~{}]+|([-=.#+])\1{3,}|(?<!\S)(?:[#=+]+|(?<!\d )/+|/+(?! \d))(?!\S)")


def _operator(found: re.Match[str]) -> str:
    return f" {_BETWEEN_NUMBERS[found[2]]} " if _is_sum(found) else found[0]


def _is_sum(found: re.Match[str]) -> bool:
    """Between two operands, not inside of a word: "a * b" and "2+2", but "snake*case" and "C+D" are none."""
    before, after = found.string[found.start() - 1], found.string[found.end()]
    spaced = bool(found[1] and found[3])
    return spaced or (before.isdecimal() and (after.isdecimal() or after in "-−("))


def _touched(found: re.Match[str]) -> bool:
    """Press *69."""
    return found.string[found.end() : found.end() + 1].isdecimal()


def _power(found: re.Match[str]) -> str:
    if found[1]:
        return " squared" if found[1] == "2" else " cubed"
    return f" to the power of {found[2]}"


def _compared(found: re.Match[str]) -> str:
    if found[2]:
        return "at most " if found[1] == "<" else "at least "
    return "less than " if found[1] == "<" else "more than "


def _plus(found: re.Match[str]) -> str:
    return " plus plus" if found[0] == "++" else " plus" + (" " if found[0][0].isspace() else "")


def _hash(found: re.Match[str]) -> str:
    after = found.string[found.end() : found.end() + 1]
    if not after.isalnum():
        return " sharp"
    item = _ITEM.search(found.string, max(0, found.start() - 14), found.start()) and _CODE.match(
        found.string, found.end()
    )
    return "number " if item else "hashtag "


# In the order of their work, each with the signs without one of which it has nothing to do.
_RULES: Final[tuple[tuple[frozenset[str], re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]] = (
    (frozenset(">⟶➔➜"), _ARROW, " to "),
    (frozenset("~"), _ABOUT, "about "),
    (
        frozenset("#*"),
        _KEY,
        lambda m: f"{m[1] or m[3]} {'star' if '*' in m[0] else 'pound'}" + (" " if _touched(m) else ""),
    ),
    (frozenset("#"), _COUNT, "number"),
    (frozenset("^"), _POWER, _power),
    (frozenset("<>≤≥"), _RELATED, lambda m: f" is {_RELATIONS[m[2]]}{' or equal to' if m[3] else ''} "),
    (frozenset("<>"), _COMPARED, _compared),
    (frozenset("="), _ASSIGNED, " equals "),
    (frozenset("+−-"), _ZONE, lambda m: f"{m[1]} {'plus' if m[2] == '+' else 'minus'} "),
    (frozenset("+"), _SIGNED, "plus "),
    (frozenset("/"), _DIVIDED, " divided by "),
    (frozenset("/"), _EACH, " per "),
    (frozenset("x"), _TEN, " times "),
    (frozenset("+=×·÷^−*-<>"), _OPERATOR, _operator),
    (frozenset("²³"), _SQUARED, lambda m: " squared" if m[1] == "²" else " cubed"),
    (frozenset("="), _EQUALS, lambda m: " is not equal to " if m[1] else " equals "),
    (frozenset("+"), _PLUS, _plus),
    (frozenset("&"), _AND, " and "),
    (frozenset("@"), _AT, "at "),
    (frozenset("#"), _HASH, _hash),
    (frozenset("/"), _SLASH, " "),
    (frozenset(_ALWAYS), _SIGN, lambda m: f" {_ALWAYS[m[1]]} "),
    (frozenset("-"), _DASH, " — "),
    (frozenset("®™℠*_|\\^`~{}-=.#+/"), _DECORATION, " "),
)


def speak_symbols(text: str) -> str:
    """R&D, @anna, #1, 2 + 2 = 4, <5, ~10, A -> B."""
    for signs, pattern, words in _RULES:
        if not signs.isdisjoint(text):
            text = pattern.sub(words, text)
    return text
