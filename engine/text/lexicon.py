"""Words that decide where an English sentence ends: abbreviations by what may follow them, and words that open one."""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BEFORE_NAMES: Final = _words("""
    mr mrs ms mx messrs mme mlle dr prof rev fr hon gen col maj capt cpt lt sgt cpl cmdr adm gov sen rep pres supt st
    mt ft msgr bros
""")
"""Never the last word of a sentence: "Dr. Smith". With "Main St." the sentence only grows longer."""

BEFORE_MORE: Final = _words("""
    e.g i.e eg ie vs v viz cf al approx ca incl excl esp resp aka a.k.a ibid z.b d.h bzw u.a p.ej
""")
"""The same, before any word."""

BEFORE_NUMBERS: Final = _words("""
    no nos nr fig figs vol vols ch chap sec sect art p pp par para eq ex op ver tel ext est c
""")
"""Abbreviations before a number, and nowhere else: "No. 5"."""

MONTHS: Final = _words("jan feb mar apr jun jul aug sep sept oct nov dec")
"""The same."""

MAYBE_LAST: Final = _words("""
    etc inc ltd co corp llc plc jr sr esq ave blvd rd ln hwy apt ste dept univ assn a.m p.m am pm b.c a.d ph.d m.d b.a
    m.a b.sc m.sc d.c mon tue tues wed thu thur thurs fri sat sun ft in lb lbs oz min mins sec secs hr hrs yr yrs mph
    km cm mm kg
""")
"""These end a sentence when a word follows that opens one."""

OPENERS: Final = _words("""
    the a an this that these those it he she we they you i there here then now so but and or if when while where why
    what who how which after before although because since in on at for from with as to no not yes please thank thanks
    his her their our my your its one some many most all every each both another other however meanwhile finally first
    next later today tomorrow yesterday once still let do does did is are was were can could will would should may
    might just only even
""")
"""Words that, with a capital letter, open a sentence."""
