"""Signs -> words where they are words; what is left of decoration is dropped."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

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
_OPERAND: Final = r"(?:\d|\b[a-zA-Z]\b)"
_OPERATOR: Final = re.compile(r"(?<=[\w)])(\s?)([+=×·÷^−*]|(?<=\s)[-<>])(\s?)(?=[-−]?(?:\d|[a-zA-Z]\b|\())")
_COMPARED: Final = re.compile(r"(?<![\w<>])([<>])=?\s?(?=\d)")
_ABOUT: Final = re.compile(r"(?<!\w)~\s?(?=[\d$£€])")
_EQUALS: Final = re.compile(r"(?<=\w)\s=\s(?=\w)")
_PLUS: Final = re.compile(r"(?<=\w)\s\+\s(?=\w)|(?<=[A-Za-z])\+\+|(?<=\d)\+(?!\w)")
_SQUARED: Final = re.compile(r"(?<=[A-Za-z)])([²³])(?!\w)")
_AND: Final = re.compile(r"(?<=\w)\s?&\s?(?=\w)|(?<=\s)&(?=\s)")
_AT: Final = re.compile(r"(?<!\w)@(?=\w)|(?<=\s)@(?=\s)")
_HASH: Final = re.compile(r"(?<![\w&])#(?=[^\W\d])|(?<=\b[A-Z])#(?!\w)")
_SLASH: Final = re.compile(r"(?<=[A-Za-z])/(?=\w)")
_ARROW: Final = re.compile(r"\s?(?:-{1,2}>|=>|⟶|➔|➜)\s?")
_DASH: Final = re.compile(r"(?<=[\w\s])\s?--\s?(?=[\w\s])")
_SIGN: Final = re.compile(f"\\s?([{''.join(_ALWAYS)}])\\s?")
_DECORATION: Final = re.compile(r"={2,}|[®™℠*_|\\^`~{}]+|([-=.#+])\1{3,}|(?<!\S)[#=/+]+(?!\S)")


def _operator(found: re.Match[str]) -> str:
    return f" {_BETWEEN_NUMBERS[found[2]]} " if _is_sum(found) else found[0]


def _is_sum(found: re.Match[str]) -> bool:
    """Between two operands, not inside of a word: "a * b" and "2+2", but "snake*case" and "C+D" are none."""
    before, after = found.string[found.start() - 1], found.string[found.end()]
    spaced = bool(found[1] and found[3])
    return spaced or (before.isdecimal() and (after.isdecimal() or after in "-−("))


def _plus(found: re.Match[str]) -> str:
    return " plus plus" if found[0] == "++" else " plus" + (" " if found[0][0].isspace() else "")


def _hash(found: re.Match[str]) -> str:
    after = found.string[found.end() : found.end() + 1]
    return "hashtag " if after.isalnum() else " sharp"


# In the order of their work, each with the signs without one of which it has nothing to do.
_RULES: Final[tuple[tuple[frozenset[str], re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]] = (
    (frozenset(">⟶➔➜"), _ARROW, " to "),
    (frozenset("~"), _ABOUT, "about "),
    (frozenset("<>"), _COMPARED, lambda m: "less than " if m[1] == "<" else "more than "),
    (frozenset("+=×·÷^−*-<>"), _OPERATOR, _operator),
    (frozenset("²³"), _SQUARED, lambda m: " squared" if m[1] == "²" else " cubed"),
    (frozenset("="), _EQUALS, " equals "),
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
