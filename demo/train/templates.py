"""Everyday sentences made from patterns: numbers, times, prices, names, places, questions, what an assistant says.

`Everyday(seed).sentence()` gives one; a `{slot}` of a pattern is filled from the list or the method of that name.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from demo.train.patterns import PATTERNS, SLOTS

ONES, TENS, ORDINALS = SLOTS["one"], ["", "", *SLOTS["ten"]], SLOTS["nth"]


def spell(n: int) -> str:
    """0 to 999,999 in words."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{ONES[n // 100]} hundred" + (f" and {spell(n % 100)}" if n % 100 else "")
    return f"{spell(n // 1000)} thousand" + (f" {spell(n % 1000)}" if n % 1000 else "")


class Everyday:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def sentence(self) -> str:
        text = re.sub(r"\{(\w+)\}", lambda match: self.fill(match.group(1)), self.dice.choice(PATTERNS))
        text = re.sub(r"\b([Aa]) (?=[aeio]|umb)", r"\1n ", text)
        return text[0].upper() + text[1:]

    def fill(self, slot: str) -> str:
        if slot in SLOTS:
            return self.dice.choice(SLOTS[slot])
        method: Callable[[], str] = getattr(self, slot)
        return method()

    def written(self, n: int) -> str:
        """Digits or words, one as often as the other."""
        return f"{n:,}" if self.dice.random() < 0.5 else spell(n)

    def n(self) -> str:
        return self.written(self.dice.randint(2, 30))

    def nn(self) -> str:
        return self.written(self.dice.choice((self.dice.randint(10, 99), self.dice.randint(100, 999))))

    def nnn(self) -> str:
        return self.written(self.dice.choice((self.dice.randint(100, 9999), self.dice.randint(1, 90) * 1000)))

    def room(self) -> str:
        return str(self.dice.randint(1, 99)) if self.dice.random() < 0.5 else str(self.dice.randint(101, 989))

    def year(self) -> str:
        return str(self.dice.randint(1900, 2035))

    def date(self) -> str:
        day = self.dice.randint(1, 28)
        month = self.fill("month")
        nth = ORDINALS[day - 1]
        return self.dice.choice((f"{month} {day}", f"{month} {nth}", f"the {nth} of {month}"))

    def ordinal(self) -> str:
        return ORDINALS[self.dice.randint(0, 11)]

    def time(self) -> str:
        hour, minute = self.dice.randint(1, 12), self.dice.choice((0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55))
        clock = f"{hour}:{minute:02d}"
        words = f"{spell(hour)} {spell(minute) if minute > 9 else 'o five'}" if minute else f"{spell(hour)} o'clock"
        half = f"{self.dice.choice(SLOTS['past'])} {spell(hour)}"
        return self.dice.choice((clock, clock, words, words, half))

    def price(self) -> str:
        dollars, cents = self.dice.randint(2, 199), self.dice.choice((0, 0, 25, 49, 50, 75, 95, 99))
        if self.dice.random() < 0.5:
            return f"${dollars}.{cents:02d}" if cents else f"${dollars}"
        return f"{spell(dollars)} dollars" + (f" and {spell(cents)} cents" if cents else "")

    def percent(self) -> str:
        n = self.dice.randint(1, 99)
        return f"{n}%" if self.dice.random() < 0.5 else f"{spell(n)} percent"

    def digits(self) -> str:
        """A code read digit by digit, in digits with blanks or in words."""
        run = [self.dice.randint(0, 9) for _ in range(self.dice.randint(3, 7))]
        return " ".join(map(str, run)) if self.dice.random() < 0.6 else " ".join(ONES[d] for d in run)

    def phone(self) -> str:
        run = [self.dice.randint(0, 9) for _ in range(7)]
        words = [ONES[d] for d in run] if self.dice.random() < 0.5 else [str(d) for d in run]
        return f"{' '.join(words[:3])}, {' '.join(words[3:])}"

    def span(self) -> str:
        unit = self.dice.choice(("minutes", "hours", "days", "weeks", "months", "years", "seconds"))
        return f"{self.n()} {unit}"
