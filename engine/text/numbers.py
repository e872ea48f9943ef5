"""Numbers -> words, after money, dates, times and units have taken theirs."""

from __future__ import annotations

import re
from typing import Final

from engine.text.codes import speak_codes
from engine.text.numerals import cardinal, decimal, ordinal, roman, spelled, whole, year

_WHOLE: Final = r"(?:\d{1,3}(?:,\d{3}){1,4}|\d{1,2}(?:,\d\d){1,4},\d{3}|\d{1,99})"
_DECIMAL: Final = rf"(?:{_WHOLE}(?:\.\d{{1,99}})?|\.\d{{1,99}})"
# What a plain number may not touch: it would be a part of something else.
_ALONE: Final = r"(?<![\w.,/])"
_END: Final = r"(?![\w]|[.,/:]\d)"

_ORDINAL: Final = re.compile(rf"{_ALONE}({_WHOLE})(?:st|nd|rd|th)\b", re.IGNORECASE)
_MIXED: Final = re.compile(r"(?<![\w.,/])(?:(\d{1,6})[\s-])?(\d{1,3})\s?[/⁄]\s?(\d{1,3})(?![\w/%]|[.,]\d)")
_GLYPHS: Final = {
    "¼": "1/4",
    "½": "1/2",
    "¾": "3/4",
    "⅓": "1/3",
    "⅔": "2/3",
    "⅕": "1/5",
    "⅖": "2/5",
    "⅗": "3/5",
    "⅘": "4/5",
    "⅙": "1/6",
    "⅚": "5/6",
    "⅛": "1/8",
    "⅜": "3/8",
    "⅝": "5/8",
    "⅞": "7/8",
    "⅐": "1/7",
    "⅑": "1/9",
    "⅒": "1/10",
}
_GLYPH: Final = re.compile(rf"(?:(?<=\d)\s?)?([{''.join(_GLYPHS)}])")
_ADDRESS: Final = re.compile(
    r"(?<![\w.])(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:/(\d{1,2})|:(\d{1,5}))?(?![\w]|\.\d)"
)
_VERSION: Final = re.compile(
    r"(?<![\w.])(v(?:er)?\.?\s?)?(\d{1,9}(?:\.\d{1,9}){2,9})(?!\w)|\b(?:v|V(?=\d{1,9}\.\d))(\d{1,9}(?:\.\d{1,9}){0,9})(?!\w)"
)
_COUNTED: Final = (
    r"\s(?:people|men|women|children|times|pages|years|days|hours|minutes|words|points|dollars|euros|pounds|miles|meters|feet|"
    r"users|members|employees|soldiers|deaths|cases|votes|seats|items|calories|steps|degrees)\b"
)
_YEARS: Final = re.compile(r"(?<![\w.,/-])((?:1[1-9]|20)\d\d)\s?[-–—/]\s?((?:1[1-9]|20)?\d\d)(?![\w%]|[-/.,]\d)")
_YEAR: Final = re.compile(
    r"((?:\b(?:(?i:in|since|by|from|until|till|of|year|before|after|around|circa|during|between|and|to|early|late|mid|"
    r"spring|summer|autumn|fall|winter)|[A-Z]\w{2,8}ber|January|February|March|April|May|June|July|August)\s|[(©]))"
    rf"(1[1-9]\d\d)(?![\w%]|[-/.,]\d|{_COUNTED})"
)
# "In 1999 people danced": a year in spite of what follows.
_SINCE: Final = re.compile(r"(\b(?i:in|since)\s)((?:19|20)\d\d)(?![\w%]|[-/.,:]\d)")
_EARLY: Final = re.compile(
    rf"(\b(?i:in|since|year|circa|before|after)\s)(10\d\d)(?![\w%]|[-/.,]\d|{_COUNTED}|\s[a-z]{{3,20}}s\b)"
)
_RECENT: Final = re.compile(rf"{_ALONE}((?:19|20)\d\d)(?![\w%]|[-/.,:]\d|{_COUNTED})")
_RANGE: Final = re.compile(rf"(?<![\w.,/–—-])({_DECIMAL})(%?)\s?(?:[–—]|-)\s?({_DECIMAL})(?![\w–—-]|[.,/]\d)")
_HALVES: Final = re.compile(r"(?<![\w.,/-])(50|60|90)[-–/](50|40|10)(?![\w-]|[.,/]\d)")
_BY: Final = re.compile(r"(?<=\d)(?<!\b0)\s?[x×]\s?(?=\d)")
_TIMES: Final = re.compile(
    r"(?<=\d)[x×](?=\s(?:as|more|less|the|faster|slower|bigger|smaller|better|worse|higher|lower|cheaper)\b)"
)
_BEST: Final = re.compile(
    r"(?<![\w.,/])(\d{1,2}\.\d|10(?=/10)|5(?=/5)|100(?=/100))/(5|10|100)(?![\w%/]|[.,]\d)"
    r"|(?<![\w.,/])(\d{1,3})/(5|10|100)(?=\s(?:stars?|points?|rating)\b)"
    r"|(?i:(\b(?:rate|rated|rating|score|scored|give|gave|gets|got)(?:\s[a-z]{1,6}){0,3}\s))(\d{1,3})/(10|100)"
    r"(?![\w%/]|[.,]\d|\sof)"
)
_PRESSURE: Final = re.compile(r"((?i:\bBP|\bblood pressure)[^\d\n]{0,20})(\d{2,3})/(\d{2,3})(?![\w/]|[.,]\d)")
_VERSE: Final = re.compile(
    r"\b(Genesis|Exodus|Leviticus|Deuteronomy|Joshua|Judges|Ruth|Samuel|Kings|Chronicles|Psalms?|Proverbs|Ecclesiastes|Isaiah|"
    r"Jeremiah|Ezekiel|Daniel|Matthew|Mark|Luke|John|Acts|Romans|Corinthians|Galatians|Ephesians|Philippians|Colossians|"
    r"Thessalonians|Timothy|Hebrews|James|Peter|Revelation)\s(\d{1,3}):(?=\d{1,3}\b)"
)
_SCIENTIFIC: Final = re.compile(r"(?<![\w.])(\d{1,9}\.\d{1,9}|\d{1,9}(?=[eE][-−+]))[eE]([-−+]?)(\d{1,3})(?!\w)")
_TEAM: Final = re.compile(r"(?<![\w.,])(\d\d)ers\b")
_THOUSANDS: Final = re.compile(
    r"(?<![\w.,])\d{1,3}(?:[\u00a0\u202f\u2009]\d{3}){1,4}(?![\w\u00a0]|[.,]\d)"
    r"|(?<![\w.,])\d{1,3}(?: 000){1,4}(?!\w| \d)"
)
_TENFOLD: Final = re.compile(r"(?<=10)[⁻⁰¹²³⁴-⁹]+")
_RAISED: Final = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_LOWERED: Final = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_MINUS: Final = re.compile(r"(?<![\w)\].,%-])[-−](?=\.?\d)")
_PERCENT: Final = re.compile(r"(?<=\d)\s?(%|‰)")
_RATIO: Final = re.compile(r"(?<![\w.,:])(\d{1,4}):(\d{1,4})(?![\w:]|[.,]\d)")
_NUMBER_SIGN: Final = re.compile(r"(?<![\w&])(?:#|№\s?)(?=\d)")
_IN_CODE: Final = re.compile(r"(?<=[A-Za-z])(-?)(\d{1,99})(?=([A-Za-z])?)|(?<![\w.,])(\d{1,99})(-?)(?=[A-Za-z])")
_DASHED: Final = re.compile(r"(?<![\w-])\d{1,9}(?:-\d{1,9}){2,9}(?![\w-])")
_SLASH: Final = re.compile(r"(?<=\w)/(?=\d)")
_PLAIN: Final = re.compile(_DECIMAL)
_ROMAN: Final = re.compile(
    r"\b(World War|Chapter|Part|Act|Scene|Volume|Vol\.|Section|Phase|Book|Article|Appendix|Stage|Level|Tier|Super Bowl|"
    r"Title|Class|Grade|Round|Episode|Season)\s((?=[IVXL])(?:X{0,3}|XL|L)(?:IX|IV|V?I{0,3}))(?=[\s.,:;!?)]|$)"
)
_MONARCH: Final = re.compile(
    r"\b(Henry|Charles|Elizabeth|George|Edward|Louis|James|William|Richard|Philip|Napoleon|Alexander|Peter|Catherine|"
    r"Nicholas|Frederick|Ferdinand|Mary|Victor|Leo|Pius|Paul|Benedict|Gregory|Innocent|Clement|Urban|John Paul|Ramses|"
    r"Ramesses|Ptolemy|Mehmed|Murad|Selim|(?:King|Queen|Pope|Emperor|Tsar|Sultan)\s[A-Z][a-z]{1,20})"
    r"\s((?=[IVX])X{0,2}(?:IX|IV|V?I{0,3}))(?=[\s.,:;!?)’']|$)"
)
_FIRST_OF: Final = re.compile(r"['’]s\b|\sof\s(?!course|all\b)|\)|$")
_INITIAL: Final = re.compile(r"\.\s[a-z]|\s[A-Z][a-z]")
_KIND: Final = re.compile(
    r"\b([Tt]ypes?|stage|phase|chapter|part|volume|section|act|scene|book)\s((?=[IVX]{2})(?:X{0,3})(?:IX|IV|V?I{0,3}))(?=[\s.,:;!?)]|$)"
)
_LETTER_I: Final = re.compile(r"\sI(?=\s)")


def speak_numbers(text: str) -> str:
    """Every number in `text` in words; Roman ones only after words that call for them."""
    text = _MONARCH.sub(_monarch, text)
    text = _KIND.sub(_numbered, _ROMAN.sub(_numbered, text))
    text = text.translate(_LOWERED)
    if not any(character.isdecimal() or character in _GLYPHS for character in text):
        return text
    for rule in (_spoken_codes, _spoken_years, _spoken_relations, _spoken_parts):
        text = rule(text)
    return _PLAIN.sub(_plain, _SLASH.sub(" slash ", text))


def _monarch(found: re.Match[str]) -> str:
    """Charles II; but "James V. Smith" and "Mary I know"."""
    after = found.string[found.end() : found.end() + 8]
    if found[2] == "I" and not _FIRST_OF.match(after):
        return found[0]
    if found[2] in ("V", "X") and _INITIAL.match(after):
        return found[0]
    return f"{found[1]} the {ordinal(roman(found[2]))}"


def _numbered(found: re.Match[str]) -> str:
    # "Part I liked": the pronoun, unless something stops after it.
    if (
        found[2] == "I"
        and found[1] not in ("World War", "Super Bowl")
        and _LETTER_I.match(found.string, found.start(2) - 1)
    ):
        return found[0]
    return f"{found[1]} {cardinal(roman(found[2]))}"


def _spoken_codes(text: str) -> str:
    """Network addresses, versions, digits with dashes."""
    text = _ADDRESS.sub(_address, speak_codes(text))
    text = _VERSION.sub(_version, text)
    text = _DASHED.sub(lambda m: ", ".join(spelled(part) for part in m[0].split("-")), text)
    return _NUMBER_SIGN.sub("number ", text)


def _address(found: re.Match[str]) -> str:
    words = " dot ".join(cardinal(int(part)) for part in found.groups()[:4])
    after = f" slash {cardinal(int(found[5]))}" if found[5] else f" port {whole(found[6])}" if found[6] else ""
    return words + after


def _version(found: re.Match[str]) -> str:
    number = found[2] or found[3]
    prefix = "version " if found[1] or found[3] else ""
    return prefix + " point ".join(whole(part) for part in number.split("."))


def _spoken_years(text: str) -> str:
    text = _YEARS.sub(lambda m: f"{year(int(m[1]))} to {year(int(m[2])) if len(m[2]) == 4 else _short(m[2])}", text)
    text = _SINCE.sub(lambda m: m[1] + year(int(m[2])), text)
    text = _EARLY.sub(lambda m: m[1] + year(int(m[2])), text)
    text = _YEAR.sub(lambda m: m[1] + year(int(m[2])), text)
    return _RECENT.sub(lambda m: year(int(m[1])), text)


def _short(digits: str) -> str:
    return f"oh {cardinal(int(digits))}" if digits[0] == "0" and digits != "00" else cardinal(int(digits))


def _spoken_relations(text: str) -> str:
    """Ranges, ratios, signs and percents: what stands between and around numbers."""
    text = _THOUSANDS.sub(lambda m: re.sub(r"\s", "", m[0]), text)
    text = _BEST.sub(_best, _VERSE.sub(r"\1 \2, ", text))
    text = _PRESSURE.sub(r"\1\2 over \3", text)
    text = _SCIENTIFIC.sub(_scientific, text)
    text = _TEAM.sub(lambda m: (words := cardinal(int(m[1]))) + ("rs" if words[-1] == "e" else "ers"), text)
    text = _ORDINAL.sub(lambda m: _ordinal(m[1]), text)
    text = _RANGE.sub(r"\1\2 to \3", _HALVES.sub(r"\1 \2", text))
    text = _TIMES.sub(" times", _BY.sub(" by ", text))
    text = _TENFOLD.sub(lambda m: f" to the power of {m[0].translate(_RAISED)}", text)
    # 44:02 is a time that somebody ran.
    text = _RATIO.sub(
        lambda m: f"{m[1]} oh {m[2][1]}" if m[2][0] == "0" and len(m[2]) == 2 else f"{m[1]} to {m[2]}", text
    )
    text = _MINUS.sub("minus ", text)
    return _PERCENT.sub(lambda m: " percent" if m[1] == "%" else " per mille", text)


def _best(found: re.Match[str]) -> str:
    """10/10 and 4.5/5 are no fractions."""
    return f"{found[5] or ''}{found[1] or found[3] or found[6]} out of {found[2] or found[4] or found[7]}"


def _scientific(found: re.Match[str]) -> str:
    sign = "minus " if found[2] in ("-", "−") and found[2] else ""
    return f"{found[1]} times ten to the power of {sign}{found[3]}"


def _ordinal(digits: str) -> str:
    bare = digits.replace(",", "")
    return ordinal(int(bare)) if len(bare) <= 15 else spelled(bare) + "th"


def _spoken_parts(text: str) -> str:
    """Fractions, and digits that touch letters."""
    text = _GLYPH.sub(_glyph, text)
    text = _MIXED.sub(_fraction, text)
    return _IN_CODE.sub(_in_code, text)


def _glyph(found: re.Match[str]) -> str:
    """ "2½" is 2 1/2 as written."""
    before = found.string[found.start() - 1] if found.start() else " "
    return (" " if before.isalnum() else "") + _GLYPHS[found[1]]


def _fraction(found: re.Match[str]) -> str:
    """ "2 1/2" is "two and a half", "9/11" "nine eleven": only small parts of a whole are fractions."""
    before, over, under = found[1], int(found[2]), int(found[3])
    known = under in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 32, 100) and 0 < over < under
    if not known:
        joint = "" if found[0] in ("24/7", "9/11") else " slash"
        return f"{whole(before) + ' ' if before else ''}{whole(found[2])}{joint} {whole(found[3])}"
    name = {2: "half", 4: "quarter"}.get(under) or ordinal(under)
    part = f"{'a' if before else 'one'} {name}" if over == 1 else f"{cardinal(over)} {name}s"
    return f"{whole(before)} and {part}" if before else part


def _in_code(found: re.Match[str]) -> str:
    """MP3, H2O, 4K, GPT-4: short numbers as numbers, long ones digit by digit."""
    digits = found[2] or found[4]
    words = cardinal(int(digits)) if len(digits) <= 2 and digits[0] != "0" else spelled(digits)
    return f" {words}{' ' if found[3] else ''}" if found[2] else f"{words} "


def _plain(found: re.Match[str]) -> str:
    text, end = found.string, found.end()
    words = decimal(found[0])
    before = text[found.start() - 1] if found.start() else " "
    after = text[end] if end < len(text) else " "
    return (" " if before.isalnum() else "") + words + (" " if after.isalnum() else "")
