"""Dates and times of day -> words: 2026-11-22, 11/22/2026, Nov. 22nd, 3:05pm, 14:30."""

from __future__ import annotations

import re
from typing import Final

from engine.text.numerals import DIGIT, cardinal, ordinal, plural, year

MONTHS: Final = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]
_WEEK: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DAYS: Final = {day[:3]: day for day in _WEEK}

_MONTH: Final = (
    r"\b(Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\b"
)
_YEAR: Final = r"((?:1\d|2[01])\d\d)(?![\d%]|[.,:/]\d|-\d)"
_DAY: Final = r"(3[01]|[12]\d|0?[1-9])"
_NTH: Final = r"(?:st|nd|rd|th)?"
_NO_NUMBER: Final = r"(?![\d:%$€£]|[.,/]\d|-\d)"

_DECADE: Final = re.compile(
    r"(?<![\w.,$£€])(1[1-9]|20)(\d0)['’]?s\b|"
    r"(\b(?:the|early|late|mid|(?:his|her|my|their|our)(?: (?:early|late|mid))?)[\s-])?"
    r"(?<![\w.,$£€])(['’])?([2-9]0)['’]?s\b"
)
_ISO: Final = re.compile(
    r"(?<![\w/.-])((?:1\d|2[01])\d\d)-(0[1-9]|1[0-2])-(3[01]|[12]\d|0[1-9])(?:T(?=\d\d:)|(?![\w-]))"
)
_SLASHED: Final = re.compile(r"(?<![\w/.-])(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})(?![\w/])")
_DOTTED: Final = re.compile(rf"(?<![\w/.-]){_DAY}\.(1[0-2]|0?[1-9])\.((?:1[89]|20|21)\d\d)(?![\w]|\.\d)")
_WEEKDAY: Final = re.compile(rf"\b(Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)(?:\.,?|,)(?=\s(?:{_MONTH}|{_DAY}\b))")
_MONTH_DAY: Final = re.compile(
    rf"{_MONTH}\.?\s{_DAY}{_NTH}(?:\s?[-–—]\s?{_DAY}{_NTH}\b)?(?![\w])(?:(?:,\s?|\s){_YEAR})?{_NO_NUMBER}"
)
_DAY_MONTH: Final = re.compile(
    rf"(?<![\w.,:$£€/-])(the\s)?{_DAY}{_NTH}(?:\s?[-–—]\s?{_DAY}{_NTH})?\s(?:of\s)?{_MONTH}(?:\.(?=,?\s[a-z\d]))?"
    rf"(?:,?\s{_YEAR})?{_NO_NUMBER}"
)
_MONTH_YEAR: Final = re.compile(rf"{_MONTH}\.?,?\s{_YEAR}")
_SHORT_MONTH: Final = re.compile(r"\b(Jan|Feb|Aug|Sept?|Oct|Nov|Dec)\.(?=,?\s[a-z])")

_HALF: Final = r"([AaPp])(\.\s?[Mm]\.|[Mm](?![A-Za-z]))"
_RANGE: Final = re.compile(r"(?<=\d)\s?[-–—]\s?(?=(?:[01]?\d|2[0-4]):[0-5]\d(?!\d))")
_CLOCK: Final = re.compile(
    rf"(?<![\w:.,$£€/-])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d)(?:\.\d{{1,6}})?)?(?:Z\b)?(?:\s?{_HALF})?(?![\d:])"
)
_HOUR: Final = re.compile(rf"(?<![\w:.,$£€/-])(1[0-2]|0?[1-9])(?:\s?[-–—]\s?(1[0-2]|0?[1-9]))?\s?{_HALF}")
_HALF_ALONE: Final = re.compile(r"\b([ap])\.\s?m\.")
_SENTENCE_GOES_ON: Final = re.compile(r"(?!\s*$|\s*\n|\s+[\"'“‘(]?[A-Z])|\s+(?:[ECMP][SD]T|GMT|UTC|BST|CES?T|ET|PT)\b")


def speak_dates(text: str) -> str:
    """Every date in `text` in words; 11/22 is November's, 22/11 too."""
    if not DIGIT.search(text):
        return _SHORT_MONTH.sub(lambda m: _month(m[1]), text)
    text = _DECADE.sub(_decade, text)
    text = _ISO.sub(lambda m: _date(int(m[2]), int(m[3]), m[1]) + (", " if m[0].endswith("T") else ""), text)
    text = _SLASHED.sub(_slashed, text)
    text = _DOTTED.sub(lambda m: _date(int(m[2]), int(m[1]), m[3]), text)
    text = _WEEKDAY.sub(lambda m: _DAYS[m[1][:3]] + ",", text)
    text = _MONTH_DAY.sub(_month_day, text)
    text = _DAY_MONTH.sub(_day_month, text)
    text = _MONTH_YEAR.sub(lambda m: f"{_month(m[1])} {year(int(m[2]))}", text)
    return _SHORT_MONTH.sub(lambda m: _month(m[1]), text)


def speak_times(text: str) -> str:
    """Every time of day in `text` in words."""
    if not DIGIT.search(text):
        return text
    text = _RANGE.sub(" to ", text)
    text = _CLOCK.sub(lambda m: _clock(m) + _half(m, 4), text)
    text = _HOUR.sub(lambda m: cardinal(int(m[1])) + _to(m[2]) + _half(m, 3), text)
    return _HALF_ALONE.sub(lambda m: _half(m, 1).strip(), text)


def _decade(found: re.Match[str]) -> str:
    """The 1990s, the 80s and '80s; but a timeout of 30s is measured in seconds."""
    if found[1]:
        return plural(year(int(found[1] + found[2])))
    return (found[3] or "") + plural(cardinal(int(found[5]))) if found[3] or found[4] else found[0]


def _month(name: str) -> str:
    return next(month for month in MONTHS if month.startswith(name[:3]))


def _date(month: int, day: int, digits: str) -> str:
    number = int(digits) if len(digits) == 4 else int(digits) + (2000 if int(digits) < 70 else 1900)
    return f"{MONTHS[month - 1]} {ordinal(day)}, {year(number) if 1000 <= number < 2200 else cardinal(number)}"


def _slashed(date: re.Match[str]) -> str:
    first, second = int(date[1]), int(date[2])
    month, day = (first, second) if first <= 12 else (second, first)
    return _date(month, day, date[3]) if 1 <= month <= 12 and 1 <= day <= 31 else date[0]


def _month_day(date: re.Match[str]) -> str:
    until = f" to {ordinal(int(date[3]))}" if date[3] else ""
    return f"{_month(date[1])} {ordinal(int(date[2]))}{until}" + (f", {year(int(date[4]))}" if date[4] else "")


def _day_month(date: re.Match[str]) -> str:
    until = f" to the {ordinal(int(date[3]))}" if date[3] else ""
    ending = f" {year(int(date[5]))}" if date[5] else ""
    return f"{date[1] or 'the '}{ordinal(int(date[2]))}{until} of {_month(date[4])}{ending}"


def _clock(time: re.Match[str]) -> str:
    hour, minute = int(time[1]), int(time[2])
    seconds = f" and {cardinal(int(time[3]))} seconds" if time[3] and int(time[3]) else ""
    if minute:
        words = f"oh {cardinal(minute)}" if minute < 10 else cardinal(minute)
        early = " A M" if hour == 0 and not time[4] else ""
        return f"{cardinal(hour or 12)} {words}{early}{seconds}"
    if time[4]:
        return cardinal(hour) + seconds
    if hour in (0, 24):
        return "midnight" + seconds
    return cardinal(hour) + (" hundred" if hour > 12 else " o'clock") + seconds


def _to(hour: str | None) -> str:
    return f" to {cardinal(int(hour))}" if hour else ""


def _half(time: re.Match[str], group: int) -> str:
    """ " A M" or " P M"; the full stop of "p.m." stays where it also ends a sentence."""
    if not time[group]:
        return ""
    dotted = time[0].endswith(".") and not _SENTENCE_GOES_ON.match(time.string, time.end())
    return f" {time[group].upper()} M" + ("." if dotted else "")
