"""Dates and times of day -> words: 2026-11-22, 11/22/2026, Nov. 22nd, 3:05pm, 14:30."""

from __future__ import annotations

import re
from typing import Final

from engine.text.numerals import DIGIT, cardinal, ordinal, plural, year

MONTHS: Final = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]
_WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DAYS: Final = {day[:3]: day for day in _WEEKDAYS}

_MONTH: Final = (
    r"\b(Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\b"
)
# "He came in May. 20 others followed."
_SHORTENED: Final = r"(?:(?<!May|une|uly|ary|rch|ril|ust|ber)\.)?"
_YEAR: Final = r"((?:1\d|2[01])\d\d)(?![\d%]|[.,:/]\d|-\d)"
_DAY: Final = r"(3[01]|[12]\d|0?[1-9])"
_NTH: Final = r"(?:st|nd|rd|th)?"
_NO_NUMBER: Final = (
    r"(?![\d:%$€£]|[.,/]\d|-\d|\s(?:(?:people|persons|men|women|children|kids|times|tickets|guests|miles|steps|percent)\b"
    r"|of\s(?:us|you|them)\b))"
)

_DECADE: Final = re.compile(
    r"(?<![\w.,$£€])(1[1-9]|20)(\d0)['’]?s\b|"
    r"(\b(?i:the|early|late|mid|upper|lower|low|high|(?:his|her|my|their|our)(?: (?:early|late|mid))?)[\s-])?"
    r"(?<![\w.,$£€])(['’])?([2-9]0)['’]?s\b(\s(?:music|rock|pop|hits|fashion|movies)\b)?"
)
_ISO: Final = re.compile(
    r"(?<![\w/.-])((?:1\d|2[01])\d\d)([-/])(0[1-9]|1[0-2])\2(3[01]|[12]\d|0[1-9])(?:T(?=\d\d:)|(?![\w/-]))"
)
_SLASHED: Final = re.compile(
    r"(?<![\w/.-])(\d{1,2})(?:/(\d{1,2})/(\d{4}|\d{2})|-(\d{1,2})-((?:19|20)\d\d))(?![\w/]|-\d)"
)
# "until 12/31", "Thursday, 11/26": a day that is no part of a whole.
_DUE: Final = re.compile(
    r"\b((?:[Oo]n|[Bb]y|[Uu]ntil|till|[Dd]ue|[Bb]efore|[Tt]hrough|Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)(?:day,?)?\s)"
    r"(1[0-2]|0?[1-9])/(3[01]|2\d|1[3-57-9])(?![\w/%]|[.,]\d|\s(?:of|inch|cup|mile|scale))"
)
_DASHED: Final = re.compile(rf"(?<![\w/.-]){_DAY}-{_MONTH}-((?:19|20)?\d\d)(?![\w-])")
_DOTTED: Final = re.compile(rf"(?<![\w/.-]){_DAY}\.(1[0-2]|0?[1-9])\.((?:1[89]|20|21)\d\d)(?![\w]|\.\d)")
_WEEK_NAMES: Final = r"(Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)"
_WEEKDAY: Final = re.compile(rf"\b{_WEEK_NAMES}(?:(?:\.,?|,)(?=\s(?:{_MONTH}|{_DAY}\b))|(?=\s{_DAY}{_NTH}\s{_MONTH}))")
_WEEK: Final = re.compile(rf"\b{_WEEK_NAMES}\.?\s?[-–—]\s?{_WEEK_NAMES}\b")
_UNTIL: Final = re.compile(rf"({_MONTH}{_SHORTENED}\s{_DAY}{_NTH})\s?[-–—]\s?(?={_MONTH}{_SHORTENED}\s\d)")
_MONTH_DAY: Final = re.compile(
    rf"{_MONTH}{_SHORTENED}\s{_DAY}{_NTH}(?:\s?[-–—]\s?{_DAY}{_NTH}\b)?(?![\w])(?:(?:,\s?|\s){_YEAR})?{_NO_NUMBER}"
)
_DAY_MONTH: Final = re.compile(
    rf"(?<![\w.,:$£€/-])([Tt]he\s)?{_DAY}{_NTH}(?:\s?[-–—]\s?{_DAY}{_NTH})?\s(?:of\s)?{_MONTH}(?:\.(?=,?\s[a-z\d]))?"
    rf"(?:,?\s{_YEAR})?{_NO_NUMBER}"
)
_MONTH_YEAR: Final = re.compile(rf"{_MONTH}{_SHORTENED},?\s{_YEAR}")
_SHORT_MONTH: Final = re.compile(r"\b(Jan|Feb|Aug|Sept?|Oct|Nov|Dec)\.(?=,?\s[a-z])")

_HALF: Final = r"([AaPp])(\.\s?[Mm]\.|[Mm](?![A-Za-z]))"
_RANGE: Final = re.compile(
    r"(?<=\d)\s?[-–—]\s?(?=(?:[01]?\d|2[0-4]):[0-5]\d(?!\d))|(?<=:[0-5]\d)\s?[-–—]\s?(?=\d{1,2}(?![\d:.-]))"
)
_BETWEEN_HOURS: Final = re.compile(
    r"(?<=\d[AaPp][Mm])\s?[-–—]\s?(?=\d)|(?<=[ap]\.m\.)\s?[-–—]\s?(?=\d)|(?<=\d [AaPp][Mm])\s?[-–—]\s?(?=\d)"
)
_DOT_CLOCK: Final = re.compile(r"(?<![\w:.,$£€-])(1[0-2]|0?\d)\.([0-5]\d)(?=\s?[AaPp]\.?[Mm]\b)")
_MILITARY: Final = re.compile(
    r"(?:\b(at|by|until|from|to|before|after|between)\s([01]\d|2[0-3])|(?<![\w.,-])(0\d))([0-5]\d)(?=\s(?:(?:to|and|until)\s\d{4}\s)?(?:hours|hrs)\b)",
    re.IGNORECASE,
)
_CLOCK: Final = re.compile(
    rf"(?<![\w:.,$£€/-])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d)(?:\.\d{{1,6}})?)?(?:Z\b)?(?:\s?{_HALF})?(?![\d:])"
)
_HOUR: Final = re.compile(rf"(?<![\w:.,$£€/-])(1[0-2]|0?[1-9])(?:\s?[-–—]\s?(1[0-2]|0?[1-9]))?\s?{_HALF}")
_HALF_ALONE: Final = re.compile(r"\b([ap])\.\s?m\.")
_SENTENCE_GOES_ON: Final = re.compile(
    r"(?!\s*$|\s*\n|\s+(?:<[a-z]{3,9}>\s)?[\"'“‘(]?[A-Z])"
    r"|\s+(?:[ECMP][SD]T|GMT|UTC|BST|CES?T|ET|PT|Eastern|Pacific|Central|Mountain|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
    r"|January|February|March|April|May|June|July|August|September|October|November|December)\b"
)


def speak_dates(text: str) -> str:
    """Every date in `text` in words; 11/22 is November's, 22/11 too."""
    text = _WEEK.sub(lambda m: f"{_DAYS[m[1][:3]]} to {_DAYS[m[2][:3]]}", text)
    if not DIGIT.search(text):
        return _SHORT_MONTH.sub(lambda m: _month(m[1]), text)
    text = _DECADE.sub(_decade, text)
    text = _ISO.sub(lambda m: _date(int(m[3]), int(m[4]), m[1]) + (", " if m[0].endswith("T") else ""), text)
    text = _SLASHED.sub(_slashed, text)
    text = _DOTTED.sub(lambda m: _date(int(m[2]), int(m[1]), m[3]), text)
    text = _DASHED.sub(lambda m: _date(MONTHS.index(_month(m[2])) + 1, int(m[1]), m[3]), text)
    text = _WEEKDAY.sub(lambda m: _DAYS[m[1][:3]] + ",", text)
    text = _DUE.sub(lambda m: f"{m[1]}{MONTHS[int(m[2]) - 1]} {ordinal(int(m[3]))}", text)
    text = _UNTIL.sub(r"\1 to ", text)
    text = _MONTH_DAY.sub(_month_day, text)
    text = _DAY_MONTH.sub(_day_month, text)
    text = _MONTH_YEAR.sub(lambda m: f"{_month(m[1])} {year(int(m[2]))}", text)
    return _SHORT_MONTH.sub(lambda m: _month(m[1]), text)


def speak_times(text: str) -> str:
    """Every time of day in `text` in words."""
    if not DIGIT.search(text):
        return _HALF_ALONE.sub(lambda m: _half(m, 1).strip(), text)
    text = _BETWEEN_HOURS.sub(" to ", _RANGE.sub(" to ", _DOT_CLOCK.sub(r"\1:\2", text)))
    text = _MILITARY.sub(_military, text)
    text = _CLOCK.sub(lambda m: _clock(m) + _half(m, 4), text)
    text = _HOUR.sub(lambda m: cardinal(int(m[1])) + _to(m[2]) + _half(m, 3), text)
    return _HALF_ALONE.sub(lambda m: _half(m, 1).strip(), text)


def _decade(found: re.Match[str]) -> str:
    """The 1990s, the 80s and '80s; but a timeout of 30s is measured in seconds."""
    if found[1]:
        return plural(year(int(found[1] + found[2])))
    named = found[3] or found[4] or found[6]
    return (found[3] or "") + plural(cardinal(int(found[5]))) + (found[6] or "") if named else found[0]


def _month(name: str) -> str:
    return next(month for month in MONTHS if month.startswith(name[:3]))


def _date(month: int, day: int, digits: str) -> str:
    number = int(digits) if len(digits) == 4 else int(digits) + (2000 if int(digits) < 70 else 1900)
    return f"{MONTHS[month - 1]} {ordinal(day)}, {year(number) if 1000 <= number < 2200 else cardinal(number)}"


def _slashed(date: re.Match[str]) -> str:
    first, second = int(date[1]), int(date[2] or date[4])
    month, day = (first, second) if first <= 12 else (second, first)
    return _date(month, day, date[3] or date[5]) if 1 <= month <= 12 and 1 <= day <= 31 else date[0]


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


def _military(time: re.Match[str]) -> str:
    """At 1730 hours, 0800 hours."""
    hour, minute = time[2] or time[3], int(time[4])
    words = ("zero " if hour[0] == "0" else "") + cardinal(int(hour))
    return f"{time[1] + ' ' if time[1] else ''}{words} {cardinal(minute) if minute else 'hundred'}"


def _to(hour: str | None) -> str:
    return f" to {cardinal(int(hour))}" if hour else ""


def _half(time: re.Match[str], group: int) -> str:
    """ " A M" or " P M"; the full stop of "p.m." stays where it also ends a sentence."""
    if not time[group]:
        return ""
    dotted = time[0].endswith(".") and not _SENTENCE_GOES_ON.match(time.string, time.end())
    return f" {time[group].upper()} M" + ("." if dotted else "")
