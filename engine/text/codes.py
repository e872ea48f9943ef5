"""Codes that name a thing -> digit by digit: PINs, ZIP codes, order and card numbers, R2-D2, 1080p."""

from __future__ import annotations

import re
from typing import Final

from engine.text.numerals import cardinal, spelled, year

_NO_COUNT: Final = (
    r"(?![\w%]|[.,:/-]\d|\s(?:lines|people|units|items|words|pages|dollars|points|times|characters|bytes)\b)"
)
_DIGITS: Final = r"(\d{4,12}|\d{3}[ -]\d{3})"
# After some words a number is always a code; after others only with "number", "#", "is" and the like.
_NAMED: Final = re.compile(
    r"\b((?i:PIN|OTP|passcode|zip code|post code|postal code|(?:security|access|verification|confirmation) code)"
    r"(?:\s(?:is|was))?:?\s|(?:ZIP|[Cc]ode is|[Cc]ode:|(?:ending|ends) (?:in|with))\s"
    r"|(?i:account|conf\.?|card|case|order|ticket|tracking|reference|invoice|policy|serial|booking|claim|confirmation|member|customer|"
    r"employee|routing|registration|model|part|phone) (?:number|no\.?|ID|#)(?: is| was)?:?\s)"
    rf"{_DIGITS}{_NO_COUNT}"
)
_SIGNED: Final = re.compile(rf"(?<![\w&])#\s?(\d{{4,12}}){_NO_COUNT}")
_STATE: Final = (
    "AL|AK|AZ|AR|CA|CO|CT|DE|DC|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC|ND|OH|OK|OR|"
    "PA|RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY"
)
_ZIP: Final = re.compile(rf"(,\s(?:{_STATE})\s)(\d{{5}})(?:-(\d{{4}}))?(?![\w-]|[.,]\d)")
_CARD: Final = re.compile(
    r"(?<![\w.,-])(?!(?:19|20)\d\d (?:19|20)\d\d)\d{4}(?: \d{4}){3,5}(?: \d{1,3})?(?![\w-]|[.,]\d| \d)"
)
_PICTURE: Final = re.compile(r"(?<![\w.,])(7|10|14|21)(20|40|60|80)p\b")
_FISCAL: Final = re.compile(r"\b(FY|CY)((?:19|20)\d\d)\b")
_DASH: Final = re.compile(r"(?<![\w.-])([A-Za-z]{1,12}-?\d[\w.]{0,20})-(?=[A-Za-z]?\d)")


def speak_codes(text: str) -> str:
    """What is read digit by digit, however it looks; "code" alone is not enough: a code of 2000 lines."""
    text = _NAMED.sub(lambda m: m[1].replace("#", "number") + _spelled(m[2]), _CARD.sub(lambda m: _spelled(m[0]), text))
    text = _SIGNED.sub(lambda m: "number " + spelled(m[1]), text)
    text = _ZIP.sub(lambda m: m[1] + _spelled(m[2] + (f" {m[3]}" if m[3] else "")), text)
    text = _PICTURE.sub(lambda m: f"{cardinal(int(m[1]))} {cardinal(int(m[2]))} p", text)
    text = _FISCAL.sub(lambda m: f"{m[1]} {year(int(m[2]))}", text)
    return _DASH.sub(r"\1 ", text)


def _spelled(digits: str) -> str:
    return ", ".join(spelled(group) for group in re.split("[ -]", digits))
