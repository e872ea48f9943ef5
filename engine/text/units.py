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
_SAME: Final = frozenset(["hertz", "kilohertz", "megahertz", "gigahertz"])
# A letter after a space may be a word or a grade; these are measures only where they touch the number.
_TOUCHING: Final = frozenset(["s", "h", "A", "V", "W", "J", "N", "L", "l", "yr"])
_POWERS: Final = {"²": "square", "2": "square", "³": "cubic", "3": "cubic"}
_UNIT: Final = "|".join(sorted(map(re.escape, _NAMES), key=len, reverse=True))
_MEASURE: Final = re.compile(
    rf"(?:(?<![\w.,])|(?<=[~≈<>±]))((?:\d{{1,3}}(?:,\d{{3}}){{1,4}}|\d{{1,15}})(?:\.\d{{1,9}})?|\.\d{{1,9}})(\s?|-)"
    rf"({_UNIT})([²³]|(?<=m)[23](?!\d))?(?:/({_UNIT})([²³])?)?(?!\w|[-'’]\w)(?:(?<=ft|lb|oz|hr|yr|mi)\.(?=\s+[a-z0-9])"
    r"|(?<=lbs|hrs|yrs|min|sec)\.(?=\s+[a-z0-9]))?"
)
_RANGE: Final = re.compile(
    rf"(?<![\w.,/-])(\d{{1,15}}(?:\.\d{{1,9}})?)\s?[-–—]\s?(?=\d{{1,15}}(?:\.\d{{1,9}})?(?:\s?(?:{_UNIT})\b|\s?°))"
)
_BARE_RATE: Final = re.compile(r"(?<![\w/])(km|m|mi|MB|GB|Mb|kB|L|mg|kg)/(h|s|hr|min|sec|kg|L|m)\b(?![/\w])")
_TEMPERATURE: Final = re.compile(r"(?:(?<=\d)\s?°\s?|(?<!\w)°)([CF])\b|(?<=\d)\s?(℃|℉)")
_FEET: Final = re.compile(r"(?<![\w.,])(\d{1,2})['’′]\s?(\d{1,2})(?:[\"”″]|['’′]{2})(?!\w)")
_SQUARE: Final = re.compile(r"(?<=\d)\s?(sq|cu)\.?\s?(ft|m|mi|km|yd|cm)\b")
_DEGREES: Final = re.compile(r"(\b1)?(?<=\d)\s?°(?!\w)")
_ONE: Final = frozenset(["1", "1.0"])


def speak_units(text: str) -> str:
    """Every measure's unit in words; the numbers are left to others."""
    if not DIGIT.search(text):
        return text
    text = _TEMPERATURE.sub(lambda m: " degrees " + ("Celsius" if (m[1] or m[2]) in "C℃" else "Fahrenheit"), text)
    text = _DEGREES.sub(lambda m: (m[1] or "") + (" degree" if m[1] else " degrees"), text)
    text = _FEET.sub(lambda m: f"{m[1]} {'foot' if m[1] == '1' else 'feet'} {m[2]}", text)
    text = _SQUARE.sub(lambda m: f" {_POWERS['3' if m[1] == 'cu' else '2']} {_many(_NAMES[m[2]])}", text)
    text = _MEASURE.sub(_measure, _RANGE.sub(r"\1 to ", text))
    return _BARE_RATE.sub(lambda m: f"{_many(_NAMES[m[1]])} per {_NAMES[m[2]]}", text)


def _measure(found: re.Match[str]) -> str:
    number, gap, unit, power, per, per_power = found.groups()
    if (gap and unit in _TOUCHING and not per) or (gap == "-" and len(unit) == 1 and not per):
        return found[0]
    single = number in _ONE or gap == "-"
    name = _NAMES[unit] if single else _many(_NAMES[unit])
    words = f"{number} {_POWERS[power] + ' ' if power else ''}{name}"
    return words + (f" per {_POWERS[per_power] + ' ' if per_power else ''}{_NAMES[per]}" if per else "")


def _many(name: str) -> str:
    """ "foot" -> "feet", "mile per hour" -> "miles per hour"."""
    head, per, rest = name.partition(" per ")
    return ("feet" if head == "foot" else head if head in _SAME else head + "s") + per + rest
