"""Normaliser: written text -> text as a person would read it out. Conservative: what it is not sure of stays.

Number words are English, so a text in another language keeps its numbers; marks, emoji and tags go in any language.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Final

from engine.text.abbreviations import speak_abbreviations
from engine.text.addresses import speak_emails, speak_phones, speak_urls
from engine.text.calendar import speak_dates, speak_times
from engine.text.emoji import drop_emoji
from engine.text.language import is_english
from engine.text.markdown import plain
from engine.text.money import speak_money
from engine.text.numbers import speak_numbers
from engine.text.symbols import speak_symbols
from engine.text.tags import drop_tags, printable
from engine.text.units import speak_units

_SPACES: Final = re.compile(r"[^\S\n]{2,}")
_BEFORE_STOP: Final = re.compile(r"(?<=\w)[^\S\n]+(?=[,.;!?](?:\s|$))")

# In the order of their work: what a rule leaves is what the next one sees.
_ANY_LANGUAGE: Final = {"markdown": plain, "tags": drop_tags, "emoji": drop_emoji}
_ENGLISH: Final = {
    "emails": speak_emails,
    "urls": speak_urls,
    "phones": speak_phones,
    "dates": speak_dates,
    "times": speak_times,
    "currency": speak_money,
    "units": speak_units,
    "abbreviations": speak_abbreviations,
    "symbols": speak_symbols,
    "numbers": speak_numbers,
}


@dataclass(frozen=True)
class Normaliser:
    """One switch for each kind of thing that is put into words, all on. `Normaliser.off()` changes nothing."""

    markdown: bool = True
    tags: bool = True
    emoji: bool = True
    emails: bool = True
    urls: bool = True
    phones: bool = True
    dates: bool = True
    times: bool = True
    currency: bool = True
    units: bool = True
    abbreviations: bool = True
    symbols: bool = True
    numbers: bool = True

    @classmethod
    def off(cls) -> Normaliser:
        """Every switch off."""
        return cls(**{field.name: False for field in fields(cls)})

    def __call__(self, text: str) -> str:
        """The text in words. Never raises; takes milliseconds for a few thousand characters."""
        if self == Normaliser.off():
            return text
        text = printable(text)
        for name, rule in _ANY_LANGUAGE.items():
            text = rule(text) if getattr(self, name) else text
        # What was inside of a token is gone: it may be whole only now.
        text = printable(text)
        if is_english(text):
            for name, rule in _ENGLISH.items():
                text = rule(text) if getattr(self, name) else text
        return _BEFORE_STOP.sub("", _SPACES.sub(" ", text)).strip()
