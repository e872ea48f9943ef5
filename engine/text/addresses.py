"""E-mail addresses, URLs, file names and telephone numbers, read the way people read them to each other."""

from __future__ import annotations

import re
from typing import Final

from engine.text.numerals import cardinal, spelled

_EMAIL: Final = re.compile(
    r"(?<![\w.+-])(?:mailto:)?([\w%+-]{1,64}(?:\.[\w%+-]{1,64}){0,9})@((?:[\w-]{1,63}\.){1,9}[A-Za-z]{2,24})\b(?!\.\w)"
)
_TOP: Final = (
    "com|org|net|edu|gov|mil|int|info|biz|io|ai|dev|app|co|uk|us|ca|de|fr|eu|au|nz|nl|ch|at|jp|cn|in|br|tv|me|ly|gg|xyz"
)
_FILES: Final = (
    "py|js|ts|tsx|jsx|json|ya?ml|toml|md|txt|pdf|docx?|xlsx?|pptx?|csv|html?|css|png|jpe?g|gif|svg|webp|mp[34]|wav|flac|"
    "ogg|zip|gz|tar|exe|dll|so|sh|rs|go|cpp|java|php|rb|log|ini|cfg|sql|xml|apk|iso|conf"
)
_URL: Final = re.compile(
    r"<?(?:\b(?:https?|ftp|wss?)://(?:[^\s/@<>]{1,99}@)?|(?<![\w@.-])(?=www\.))"
    r"((?:[\w-]{1,63}\.){0,9}[\w-]{1,63})(:\d{1,5})?(/(?:[^\s<>\"'”’()\]},;]|\([^\s<>()]{0,99}\)){0,2048}|[?#][^\s<>\"'”’)\]},;]{0,2048})?>?"
)
_BARE: Final = re.compile(
    rf"(?<![\w@./-])((?:[A-Za-z0-9][\w-]{{0,62}}\.){{1,9}}(?:{_TOP}))(?![\w-]|\.\w)(/[^\s<>\"'”’)\]}},;]{{0,2048}})?"
)
_FILE: Final = re.compile(
    rf"(?<![\w@.])([A-Za-z0-9_][\w-]{{0,62}}(?:\.[\w-]{{1,20}}){{0,3}})\.({_FILES})(?![\w-]|\.\w)"
)
_INNER_STOP: Final = re.compile(r"\w\.\w|://")
_TWO_DIGITS: Final = re.compile(r"\d\d")
_MACHINE: Final = re.compile(r"[?#]")
_TRAIL: Final = re.compile(r"[.!?:…]+$")
_PIECE: Final = re.compile(r"\d+|[^\W\d_]+|[._/~+=%&@:#-]")
_SAID: Final = {
    ".": "dot",
    "_": "underscore",
    "/": "slash",
    "-": "dash",
    "~": "tilde",
    "+": "plus",
    "=": "equals",
    "%": "percent",
    "&": "and",
    "@": "at",
    ":": "colon",
    "#": "hash",
}
_WORDS: Final = frozenset(["com", "org", "net", "edu", "gov", "info", "biz", "app", "dev", "co", "me", "mil"])
_PHONE: Final = re.compile(
    r"(?<![\w+.,/$£€-])(?:(\+\d{1,3}|1)[\s.-])?(?:\((\d{2,4})\)\s?|(\d{3})(?:[.-]|\s(?=\d{3}[\s.-])))(\d{3})[\s.-](\d{4})(?![\w-]|\.\d)"
)
_LOCAL: Final = re.compile(r"(?<![\w+.,/$£€-])(\d{3})-(\d{4})(?![\w-]|[.,]\d)")
_SPACED: Final = re.compile(r"(?<![\w.,$£€-])(?<!\d )0\d{2,4}(?: \d{3,6}){1,3}(?![\w-]|[.,]\d)")
_LETTERED: Final = re.compile(r"(?<![\w.-])1-([89])00-(?=[A-Z])")
_TEXTED: Final = re.compile(r"(?i:\btext)( \w{1,20} to )(\d{5,6})\b(?![.,]\d)")
_SHORT: Final = re.compile(
    r"(?i:\b(call|dial|ring|phone|text|calls|called|calling|dialed|dialled)\s)"
    r"([2-9]11|112|999|988|101)(?: or ([2-9]11))?\b(?!\s(?:people|times|men|women)|[.,:%-]\d)"
    r"|(?<=or )911\b(?! [a-z]{3,20}s\b)|\b911(?= (?:calls?|operator|dispatch|center|emergency))"
)
_ABROAD: Final = re.compile(r"(?<![\w+])\+(\d{1,3}(?:[\s.-]?\(?\d{1,4}\)?){2,6})(?![\w-]|[.,]\d)")


def speak_emails(text: str) -> str:
    """bob.smith@example.co.uk is "bob dot smith at example dot co dot U K"."""
    return _EMAIL.sub(lambda m: f"{_said(m[1])} at {_host(m[2])}", text) if "@" in text else text


def speak_urls(text: str) -> str:
    """Scheme, query and fragment are for machines: host and path are read. File names have their dot read."""
    if not _INNER_STOP.search(text):
        return text
    text = _URL.sub(lambda m: _url(m[1], m[2], m[3]), text)
    text = _BARE.sub(lambda m: _url(m[1], None, m[2]), text)
    return _FILE.sub(lambda m: f"{_said(m[1])} dot {_letters(m[2]) if len(m[2]) < 4 else m[2]}", text)


def speak_phones(text: str) -> str:
    """Digit by digit, a comma's pause between the groups."""
    if not _TWO_DIGITS.search(text):
        return text
    text = _PHONE.sub(lambda m: _groups(*m.groups()), text)
    text = _ABROAD.sub(lambda m: _groups("+", *re.findall(r"\d+", m[1])) if _is_phone(m[1]) else m[0], text)
    text = _SPACED.sub(lambda m: _groups(*m[0].split()), text)
    text = _LETTERED.sub(lambda m: f"one {cardinal(int(m[1]))} hundred ", text)
    text = _TEXTED.sub(lambda m: m[0][: -len(m[2])] + spelled(m[2]), text)
    text = _SHORT.sub(_short, text)
    return _LOCAL.sub(lambda m: _groups(m[1], m[2]), text)


def _short(found: re.Match[str]) -> str:
    called = f"{found[1]} {spelled(found[2])}" if found[1] else spelled(found[0])
    return called + (f" or {spelled(found[3])}" if found[3] else "")


def _is_phone(digits: str) -> bool:
    return 8 <= sum(character.isdecimal() for character in digits) <= 15


def _groups(*groups: str | None) -> str:
    said = ", ".join(spelled(group) for group in groups if group and group != "+")
    return "plus " + said if (groups[0] or "").startswith("+") else said


def _url(host: str, port: str | None, path: str | None) -> str:
    whole = path or ""
    stop = _TRAIL.search(whole)
    place = _MACHINE.split(_TRAIL.sub("", whole))[0]
    return _host(host) + _port(port) + (" " + _said(place) if place.strip("/") else "") + (stop[0] if stop else "")


def _port(port: str | None) -> str:
    return f" colon {spelled(port)}" if port else ""


def _host(host: str) -> str:
    *names, top = host.removeprefix("www.").split(".")
    known = top.lower() in _WORDS or len(top) > 3 or not names
    return " dot ".join([*(_said(name) for name in names), _said(top) if known else _letters(top)])


def _letters(text: str) -> str:
    return " ".join(cardinal(int(each)) if each.isdecimal() else each.upper() for each in text)


def _said(text: str) -> str:
    return " ".join(_piece(piece) for piece in _PIECE.findall(text.rstrip("/")))


def _piece(piece: str) -> str:
    if piece.isdecimal():
        return cardinal(int(piece)) if len(piece) <= 2 and piece[0] != "0" else spelled(piece)
    return _SAID.get(piece, piece)
