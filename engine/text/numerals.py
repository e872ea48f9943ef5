"""English number words: cardinals, ordinals, years, decimals and digit by digit. Pure functions on digits."""

from __future__ import annotations

import re
from typing import Final

ONES: Final = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
TENS: Final = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES: Final = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"))
MAX_DIGITS: Final = 15
"""A longer number is read digit by digit: nobody follows its name."""
DIGIT: Final = re.compile(r"\d")
_LONG_CODE: Final = 8
_ORDINALS: Final = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_ROMAN: Final = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


def cardinal(number: int) -> str:
    """0 to 999,999,999,999,999 in words: "one hundred and five"."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    if number < 1000:
        return f"{ONES[number // 100]} hundred" + (f" and {cardinal(number % 100)}" if number % 100 else "")
    size, name = next((size, name) for size, name in SCALES if number >= size)
    return f"{cardinal(number // size)} {name}" + (f" {cardinal(number % size)}" if number % size else "")


def ordinal(number: int) -> str:
    """The same as "one hundred and fifth"."""
    words = cardinal(number)
    cut = max(words.rfind(" "), words.rfind("-")) + 1
    last = words[cut:]
    if last in _ORDINALS:
        return words[:cut] + _ORDINALS[last]
    return words[:-1] + "ieth" if last.endswith("y") else words + "th"


def spelled(digits: str) -> str:
    """Digit by digit: "007" is "zero zero seven". What is no digit is left out."""
    return " ".join(ONES[int(digit)] for digit in digits if digit.isdecimal())


def whole(digits: str) -> str:
    """A whole number as written, commas and all; codes, that is leading zeros and long runs, digit by digit."""
    bare = digits.replace(",", "")
    grouped = bare != digits
    if (len(bare) > 1 and bare[0] == "0") or len(bare) > MAX_DIGITS or (len(bare) >= _LONG_CODE and not grouped):
        return spelled(bare)
    return cardinal(int(bare))


def decimal(number: str) -> str:
    """ "3.14" is "three point one four", ".5" "point five", "1,000" "one thousand"."""
    before, point, after = number.partition(".")
    words = whole(before) if before else ""
    return f"{words} point {spelled(after)}".strip() if point else words


def year(number: int) -> str:
    """1000 to 9999 as years are said: "nineteen oh five", "two thousand six", "twenty twenty-six"."""
    century, rest = divmod(number, 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(number)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} oh {ONES[rest]}" if rest < 10 else f"{cardinal(century)} {cardinal(rest)}"


def plural(words: str) -> str:
    """The last word in the plural: "nineteen nineties", "two thousands"."""
    return words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith("x") else "s")


def roman(letters: str) -> int:
    """I to CCC... as a number."""
    values = [_ROMAN[letter] for letter in letters]
    return sum(-here if here < after else here for here, after in zip(values, [*values[1:], 0], strict=True))
