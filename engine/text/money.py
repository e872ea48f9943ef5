"""Sums of money -> words: $5.20, £1.5bn, EUR 3m, 20 €, $5-10."""

from __future__ import annotations

import re
from typing import Final

from engine.text.numerals import DIGIT, cardinal, decimal

# symbol or code -> one, many, and their hundredths
_CURRENCIES: Final = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "", ""),
    "₽": ("ruble", "rubles", "kopeck", "kopecks"),
    "₺": ("lira", "lira", "", ""),
    "₿": ("bitcoin", "bitcoins", "", ""),
    "¢": ("cent", "cents", "", ""),
}
_NAMES: Final = {
    "USD": ("US dollar", "US dollars", "cent", "cents"),
    "US$": ("US dollar", "US dollars", "cent", "cents"),
    "A$": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "AUD": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "C$": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    "NZ$": ("New Zealand dollar", "New Zealand dollars", "cent", "cents"),
    "HK$": ("Hong Kong dollar", "Hong Kong dollars", "cent", "cents"),
    "S$": ("Singapore dollar", "Singapore dollars", "cent", "cents"),
    "CAD": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    "GBP": _CURRENCIES["£"],
    "EUR": _CURRENCIES["€"],
    "JPY": _CURRENCIES["¥"],
    "INR": _CURRENCIES["₹"],
    "CHF": ("Swiss franc", "Swiss francs", "", ""),
    "CNY": ("yuan", "yuan", "", ""),
    "SEK": ("Swedish krona", "Swedish kronor", "", ""),
    "NOK": ("Norwegian krone", "Norwegian kroner", "", ""),
    "DKK": ("Danish krone", "Danish kroner", "", ""),
}
_ALL: Final = _CURRENCIES | _NAMES
_SCALES: Final = {
    "k": "thousand",
    "m": "million",
    "mn": "million",
    "mm": "million",
    "mio": "million",
    "b": "billion",
    "bn": "billion",
    "t": "trillion",
    "tn": "trillion",
    "trn": "trillion",
}
_AMOUNT: Final = r"(?:\d{1,3}(?:,\d{3}){1,4}|\d{1,2}(?:,\d\d){1,4},\d{3}|\d{1,15})(?:\.\d{1,6})?|\.\d{1,4}"
_SCALE: Final = r"(?:[\s-]?(?i:(thousand|million|billion|trillion)|(k|mn|mm|mio|m|bn|b|trn|tn|t))(?![A-Za-z]))?"
_BEFORE: Final = re.compile(
    rf"(?<![\w$£€])([-−])?(US\$|A\$|C\$|NZ\$|HK\$|S\$|[$£€¥₹₩₽₺₿]|(?:USD|AUD|CAD|GBP|EUR|JPY|INR|CHF|CNY|SEK|NOK|DKK)(?=\s?\d))\s?"
    rf"({_AMOUNT})(?:\s?[-–—]\s?[$£€¥₹]?({_AMOUNT}))?{_SCALE}(?![\d]|[.,]\d)"
)
_AFTER: Final = re.compile(
    rf"(?<![\w.,$£€-])([-−])?({_AMOUNT})(?:\s?[-–—]\s?({_AMOUNT}))?{_SCALE}\s?"
    r"([€£¥₹₩₽₺¢]|\$(?![\w$])|(?:USD|AUD|CAD|GBP|EUR|JPY|INR|CHF|CNY|SEK|NOK|DKK)\b)"
)
_COMMA: Final = re.compile(
    r"(?<![\w.,])(\d{1,3}(?:\.\d{3}){0,4}|\d{1,9}),(\d\d)(?=\s?€)|(?<=€)(\d{1,3}(?:\.\d{3}){0,4}|\d{1,9}),(\d\d)(?![\d,])"
)
_FROM: Final = re.compile(r"(?<=\d[kKmMbBtTn])\s?[-–—]\s?(?=[$£€¥₹]\d)")
_PLUS: Final = re.compile(r"(?<!\S)\+(?=[$£€¥₹]\d)")
_PER: Final = re.compile(
    r"\b(dollars?|pounds?|euros?|cents?|pence|yen|rupees?)\s?/\s?(?:(hr|yr|mo|wk|kg|lb|gal|h)\b(?:\.(?=[,;)]))?|([a-z]{3,20})\b|(?=\d))"
)
_CASH: Final = re.compile(r"\s(?:bills?|notes?|coins?)\b|-[a-z]")
# "A $5 bill" is one bill.
_NOUN: Final = re.compile(
    r"\s(?!(?:and|or|to|per|for|from|in|on|at|of|off|is|was|by|if|when|as|but|than|each|more|less|with|a|an|every)\b)[a-z]{3,20}"
)
_PERIODS: Final = {
    "hr": "hour",
    "h": "hour",
    "yr": "year",
    "mo": "month",
    "wk": "week",
    "kg": "kilogram",
    "lb": "pound",
    "gal": "gallon",
}


def speak_money(text: str) -> str:
    """Every sum in `text` in words."""
    if not DIGIT.search(text):
        return text
    text = _PLUS.sub("plus ", _FROM.sub(" to ", text))
    text = _COMMA.sub(lambda m: f"{(m[1] or m[3]).replace('.', '')}.{m[2] or m[4]}", text)
    text = _BEFORE.sub(_before, text)
    text = _AFTER.sub(lambda m: _sum(m[1], m[6], (m[2], m[3]), m[4] or m[5]), text)
    return _PER.sub(lambda m: f"{m[1]} per {_PERIODS[m[2]] if m[2] else m[3] or ''}", text)


def _before(found: re.Match[str]) -> str:
    words = _sum(found[1], found[2], (found[3], found[4]), found[5] or found[6])
    before = found.string[max(0, found.start() - 3) : found.start()].lower()
    single = before.endswith((" a ", " an ")) or before in ("a ", "an ")
    many = _ALL[found[2]][1]
    named = _CASH.match(found.string, found.end()) or (single and _NOUN.match(found.string, found.end()))
    if named and words.endswith(many):
        return words.removesuffix(many) + _ALL[found[2]][0]
    return words


def _sum(sign: str | None, currency: str, amounts: tuple[str, str | None], scale: str | None) -> str:
    one, many, cent, cents = _ALL[currency]
    first, second = amounts
    minus = "minus " if sign else ""
    if second and not scale and cents and re.search(r"\.\d\d$", first):
        return f"{minus}{_sum(None, currency, (first, None), None)} to {_sum(None, currency, (second, None), None)}"
    if second:
        return f"{minus}{decimal(first)} to {_sum(None, currency, (second, None), scale)}"
    if scale:
        return f"{minus}{decimal(first)} {_SCALES.get(scale.lower(), scale.lower())} {many}"
    whole, _, part = first.partition(".")
    if not part or not cents or len(part) != 2:
        return f"{minus}{decimal(first)} {one if first == '1' else many}"
    parts = [] if not whole.strip("0") and part != "00" else [f"{decimal(whole)} {one if whole == '1' else many}"]
    if part != "00":
        parts.append(f"{cardinal(int(part))} {cent if part == '01' else cents}")
    return minus + " and ".join(parts)
