"""Measures -> words: 5 km/h, 20°C, 3GB, 5'10", 45°."""

from __future__ import annotations

import re
from typing import Final

from engine.text.numerals import DIGIT

_NAMES: Final = {
    "km": "kilometer",
    "m": "meter",
    "cm": "centimeter",
    "mm": "millimeter",
    "µm": "micrometer",
    "μm": "micrometer",
    "nm": "nanometer",
    "mi": "mile",
    "yd": "yard",
    "ft": "foot",
    "kg": "kilogram",
    "g": "gram",
    "mg": "milligram",
    "µg": "microgram",
    "μg": "microgram",
    "mcg": "microgram",
    "lb": "pound",
    "lbs": "pound",
    "oz": "ounce",
    "L": "liter",
    "l": "liter",
    "ml": "milliliter",
    "mL": "milliliter",
    "cl": "centiliter",
    "gal": "gallon",
    "dL": "deciliter",
    "dl": "deciliter",
    "tsp": "teaspoon",
    "tbsp": "tablespoon",
    "Tbsp": "tablespoon",
    "mmHg": "millimeter of mercury",
    "pts": "point",
    "ha": "hectare",
    "ms": "millisecond",
    "sec": "second",
    "secs": "second",
    "s": "second",
    "min": "minute",
    "mins": "minute",
    "h": "hour",
    "hr": "hour",
    "hrs": "hour",
    "yr": "year",
    "yrs": "year",
    "bit": "bit",
    "kB": "kilobyte",
    "KB": "kilobyte",
    "MB": "megabyte",
    "GB": "gigabyte",
    "TB": "terabyte",
    "PB": "petabyte",
    "KiB": "kibibyte",
    "MiB": "mebibyte",
    "GiB": "gibibyte",
    "TiB": "tebibyte",
    "kb": "kilobit",
    "Mb": "megabit",
    "Gb": "gigabit",
    "Hz": "hertz",
    "kHz": "kilohertz",
    "MHz": "megahertz",
    "GHz": "gigahertz",
    "W": "watt",
    "kW": "kilowatt",
    "MW": "megawatt",
    "GW": "gigawatt",
    "Wh": "watt hour",
    "kWh": "kilowatt hour",
    "MWh": "megawatt hour",
    "V": "volt",
    "kV": "kilovolt",
    "mV": "millivolt",
    "A": "amp",
    "mA": "milliamp",
    "mAh": "milliamp hour",
    "J": "joule",
    "kJ": "kilojoule",
    "N": "newton",
    "Pa": "pascal",
    "kPa": "kilopascal",
    "hPa": "hectopascal",
    "kcal": "kilocalorie",
    "cal": "calorie",
    "dB": "decibel",
    "px": "pixel",
    "kbps": "kilobit per second",
    "Mbps": "megabit per second",
    "Gbps": "gigabit per second",
    "mph": "mile per hour",
    "kph": "kilometer per hour",
    "kmh": "kilometer per hour",
    "rpm": "revolution per minute",
    "RPM": "revolution per minute",
    "bpm": "beat per minute",
    "BPM": "beat per minute",
    "fps": "frame per second",
    "FPS": "frame per second",
    "mpg": "mile per gallon",
    "psi": "pound per square inch",
    "ppm": "part per million",
}
_GOES_ON: Final = r"\.(?=[^\S\n]+[a-z0-9]|[,;)])"
_SAME: Final = frozenset(["hertz", "kilohertz", "megahertz", "gigahertz"])
# A letter after a space may be a word or a grade; these are measures only where they touch the number.
_TOUCHING: Final = frozenset(["s", "h", "A", "V", "W", "J", "N", "L", "l", "yr"])
_POWERS: Final = {"²": "square", "2": "square", "^2": "square", "³": "cubic", "3": "cubic", "^3": "cubic"}
# "Seat 12A", "Exit 5N" are no amps and no newtons.
_PLACE: Final = re.compile(
    r"(?i:\b(?:gates?|seats?|rows?|rooms?|apt|apartment|unit|flat|exit|suite|platform|figure|section|hwy|highway|route|building|"
    r"block|class|door|table|question|exercise|number|no|part|level|lot|line|model|type|version|appendix|page|chapter|form|bus)"
    r"\.?\s)$"
)
_NOUN: Final = re.compile(
    r"[^\S\n](?!(?:and|or|to|per|for|from|in|on|at|of|off|is|was|by|if|when|as|but|than|each|more|less|with|a|an|every|"
    r"away|ahead|long|wide|tall|deep|high|later|ago|before|after|short|apart|back|the|that|which)\b)(?:[a-z]{3,20}|[A-Z]{2,5}\b)"
)
_MILLIONS: Final = re.compile(
    r"(?<=\d)m(?=\s(?:people|users|viewers|followers|subscribers|customers|downloads|views|jobs|homes|copies)\b)"
)
_HOURS: Final = re.compile(r"(?<![\w.,])(\d{1,3})\s?h\s?([0-5]?\d)\s?m(?:in)?(?![\w²³/])")
_MINUTES: Final = re.compile(r"(?<![\w.,])(\d{1,3})\s?m\s?([0-5]?\d)\s?s(?![\w²³/])")
_FEET_INCHES: Final = re.compile(r"(?<=\d)(\s?(?:ft|feet|foot)\.?\s?\d{1,2})\s?in\b\.?(?!\s[a-z0-9])")
_INCHES: Final = re.compile(
    r"(?<=\d)in\b(?:\.(?=\s[a-z]))?|(?<=\d) in\.(?=\s(?:wide|long|tall|deep|thick|high)\b)"
    r"|(?<=\d) in(?=\s(?:wide|long|tall|deep|thick|high)(?:[.,;)]|$))|(?<=\d)[\"″](?!\w)"
)
_PRESSURE: Final = re.compile(r"(?<![\w.,/])(\d{2,3})/(?=\d{2,3}\s?mm ?Hg\b)")
_BY: Final = re.compile(r"(?<=\d)[\"″]\s?[x×]\s?(?=\d{1,3}(?:\.\d{1,3})?[\"″])")
_UNIT: Final = "|".join(sorted(map(re.escape, _NAMES), key=len, reverse=True))
_PART: Final = r"(?:\d{1,3}\s)?\d{1,2}[/⁄]\d{1,2}|(?:\d{1,3}\s?)?[¼½¾⅓⅔⅛⅜⅝⅞]"
_MEASURE: Final = re.compile(
    rf"(?:(?<![\w.,/])|(?<=[~≈<>±]))({_PART}|(?:\d{{1,3}}(?:,\d{{3}}){{1,4}}|\d{{1,15}})(?:\.\d{{1,9}})?|\.\d{{1,9}})(\s?|-)"
    rf"({_UNIT})([²³]|\^[23](?!\d)|(?<=m)[23](?!\d))?(?:/({_UNIT})([²³]|\^[23](?!\d))?)?(/(?:day|week|hour|min|dose|person)\b)?"
    rf"(?!\w|[-'’]\w)(?:(?<=ft|lb|oz|hr|yr|mi){_GOES_ON}|(?<=lbs|hrs|yrs|min|sec|tsp|pts|gal){_GOES_ON}|(?<=bsp){_GOES_ON})?"
)
_RANGE: Final = re.compile(
    rf"(?<![\w.,/-])(\d{{1,15}}(?:\.\d{{1,9}})?)\s?[-–—]\s?(?=\d{{1,15}}(?:\.\d{{1,9}})?(?:\s?(?:{_UNIT})\b|\s?°))"
)
_BARE_RATE: Final = re.compile(r"(?<![\w/])(km|m|mi|MB|GB|Mb|kB|L|mg|kg)/(h|s|hr|min|sec|kg|L|m)\b(?![/\w])")
_TEMPERATURE: Final = re.compile(r"(?:(?<=\d)\s?°\s?|(?<!\w)°)([CF])\b|(?<=\d)\s?(℃|℉)")
_FEET: Final = re.compile(r"(?<![\w.,])(\d{1,2})['’′]\s?(\d{1,2})(?:[\"”″]|['’′]{2})(?!\w)")
_SQUARE: Final = re.compile(r"(?<=\d)\s?(sq|cu)\.?\s?(ft|m|mi|km|yd|cm)\b")
_DEGREES: Final = re.compile(r"(\b1|\b[Aa]n? \d{1,3}(?=° ?[a-z]{3}))?(?<=\d)\s?°(?!\w)")
_ARTICLE: Final = re.compile(r"\b[Aa]n? $")
_GLYPHS: Final = "¼½¾⅓⅔⅛⅜⅝⅞"
_ONE: Final = frozenset(["1", "1.0"])


def speak_units(text: str) -> str:
    """Every measure's unit in words; the numbers are left to others."""
    if not DIGIT.search(text):
        return text
    text = _TEMPERATURE.sub(lambda m: " degrees " + ("Celsius" if (m[1] or m[2]) in "C℃" else "Fahrenheit"), text)
    text = _DEGREES.sub(lambda m: (m[1] or "") + (" degree" if m[1] else " degrees"), text)
    text = _FEET.sub(lambda m: f"{m[1]} {'foot' if m[1] == '1' else 'feet'} {m[2]}", text)
    text = _SQUARE.sub(lambda m: f" {_POWERS['3' if m[1] == 'cu' else '2']} {_many(_NAMES[m[2]])}", text)
    text = _MILLIONS.sub(" million", text)
    text = _PRESSURE.sub(r"\1 over ", text)
    text = _HOURS.sub(r"\1 hr \2 min", _MINUTES.sub(r"\1 min \2 sec", _inches(text)))
    text = _MEASURE.sub(_measure, _RANGE.sub(r"\1 to ", text))
    return _BARE_RATE.sub(lambda m: f"{_many(_NAMES[m[1]])} per {_NAMES[m[2]]}", text)


def _inches(text: str) -> str:
    """12" is twelve inches only in a text without other quotes."""
    text = _BY.sub(" x ", _FEET_INCHES.sub(r"\1 inches", text))
    marks = sum(found[0] == '"' for found in _INCHES.finditer(text))
    quoted = marks != text.count('"')
    return _INCHES.sub(lambda m: m[0] if m[0] == '"' and quoted else _inch(m), text)


def _inch(found: re.Match[str]) -> str:
    adjective = _NOUN.match(found.string, found.end()) or found.string[: found.start()].endswith(("/2", "/4", "/8"))
    return " inch" if adjective else " inches"


def _measure(found: re.Match[str]) -> str:
    number, gap, unit, power, per, per_power, each = found.groups()
    if (gap and unit in _TOUCHING and not per and unit + gap != "yr-") or (gap == "-" and len(unit) == 1 and not per):
        return found[0]
    before = found.string[max(0, found.start() - 14) : found.start()]
    if not gap and len(unit) == 1 and _PLACE.search(before):
        return found[0]
    single = (
        number in _ONE
        or gap == "-"
        or _under_one(number)
        or (_ARTICLE.search(before) and _NOUN.match(found.string, found.end()))
    )
    name = _NAMES[unit] if single else _many(_NAMES[unit])
    words = f"{number} {_POWERS[power] + ' ' if power else ''}{name}"
    if per and per_power and per == "s":
        return f"{words} per second {'squared' if _POWERS[per_power] == 'square' else 'cubed'}"
    words += f" per {_POWERS[per_power] + ' ' if per_power else ''}{_NAMES[per]}" if per else ""
    return words + (" per " + each[1:].replace("min", "minute") if each else "")


def _under_one(number: str) -> bool:
    """1/2, ¾: half a mile is no miles."""
    return number[0] in _GLYPHS or bool(re.fullmatch(r"\d{1,2}[/⁄]\d{1,2}", number))


def _many(name: str) -> str:
    """ "foot" -> "feet", "mile per hour" -> "miles per hour"."""
    head, per, rest = name.partition(" of " if " of " in name else " per ")
    return ("feet" if head == "foot" else head if head in _SAME else head + "s") + per + rest
