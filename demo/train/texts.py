"""Makes WORK/texts.jsonl: the sentences that the teachers speak, cleaned, mixed, shuffled, and their phonemes.

--texts is a folder of plain text files, one sentence a line (README.md names the public sources). The sentences of
heldout.txt, and the whole Harvard set that Common Voice contains, are never among them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from demo.train.templates import Everyday

HELDOUT = Path(__file__).with_name("heldout.txt")
HARVARD = ("The birch canoe slid on the smooth planks.", "When you hear the bell, come quickly.")
SOURCES = {  # file -> most sentences taken of it
    "common-voice": 60_000,
    "ljspeech-transcripts": 16_000,
    "wordnet-examples": 16_000,
    "world-english-bible": 12_000,
    "jane-austen": 5_000,
}
TEMPLATES, JOINS = 17_000, 9_000
TAGS = ("laugh", "chuckle", "sigh", "cough", "sniffle", "groan", "yawn", "gasp")
TAGGED, BOTH_VOICES = 0.03, 0.55
MAX_CHARS, MIN_WORDS, MAX_WORDS = 160, 2, 26
TYPOGRAPHY = str.maketrans(
    {
        "\u2019": "'",
        "\u2018": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2014": ", ",
        "\u2013": "-",
        "\u2026": "...",
        "`": "'",
    }
)
ALLOWED = re.compile(r"[A-Za-z0-9 .,?!':;$%-]+")
ACRONYM = re.compile(r"\b(?!(?:TV|OK|AM|PM)\b)[A-Z][A-Z.]*[A-Z]\b|\b(?:[A-Z]\.){2,}")
OLD = re.compile(r"\b(thee|thou|thy|thine|hath|doth|unto|yahweh|begat|ye|shalt|wherefore|lo|behold)\b", re.IGNORECASE)
RUDE = re.compile(
    r"\b(fuck\w*|shit\w*|cunt\w*|bitch\w*|whore\w*|slut\w*|nigg\w*|fag\w*|dick\w*|cock|pussy|penis|vagina|rape[ds]?|"
    r"rapist|porn\w*|bastard\w*|asshole\w*|damn\w*|sex\w*|nude|naked|breasts?|prostitut\w*|harlot\w*|fornicat\w*|"
    r"circumcis\w*|orgasm\w*|erotic\w*|suicide|nazis?|jews?|negro\w*|kill\w*|murder\w*|slaughter\w*)\b",
    re.IGNORECASE,
)


def plain(line: str) -> str:
    """ASCII, one blank between words, no double quotes."""
    text = unicodedata.normalize("NFKD", line.translate(TYPOGRAPHY)).encode("ascii", "ignore").decode()
    text = re.sub(r"\s*--+\s*|\s-\s", ", ", text.replace('"', ""))
    text = re.sub(r"\s+([.,?!:;])", r"\1", re.sub(r"\s+", " ", text))
    return re.sub(r"[,;:]+([.,?!])", r"\1", text).strip(" ,;:-'")


def normal(text: str) -> str:
    """What two sentences share when they are the same one for a listener."""
    return " ".join(re.findall(r"[a-z0-9]+", re.sub(r"<\w+>|'", "", text.lower())))


def sentence(text: str) -> str:
    """A capital at the start and a mark at the end."""
    text = text.strip(" ,;:-")
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def pieces(text: str) -> Iterator[str]:
    """The text cut at clause marks into parts of at most MAX_CHARS."""
    part = ""
    for clause in re.split(r"(?<=[,;:.?!])\s+", text):
        if part and len(part) + 1 + len(clause) > MAX_CHARS:
            yield part
            part = clause
        else:
            part = f"{part} {clause}" if part else clause
    yield part


def fits(text: str) -> bool:
    if not ALLOWED.fullmatch(text) or ACRONYM.search(text) or RUDE.search(text):
        return False
    words = text.split()
    return MIN_WORDS <= len(words) <= MAX_WORDS and len(text) <= MAX_CHARS and max(map(len, words)) <= 18


def is_modern(text: str) -> bool:
    """Keeps the novels' and the Bible's plainer sentences: few capitals inside, no old words."""
    inside = sum(word[:1].isupper() and word not in ("I", "I'll", "I'm") for word in text.split()[1:])
    return inside <= 1 and not OLD.search(text) and ";" not in text and ":" not in text


def without_harvard(lines: list[str]) -> list[str]:
    first, last = (lines.index(mark) for mark in HARVARD)
    return lines[:first] + lines[last + 1 :]


def from_file(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.stem == "common-voice":
        lines = without_harvard(lines)
    out = [sentence(part) for line in lines for part in pieces(plain(line)) if part]
    if path.stem in ("world-english-bible", "jane-austen"):
        out = [text for text in out if is_modern(text) and len(text.split()) > 3]
    return [text for text in out if fits(text)]


def joined(pool: list[str], dice: random.Random, count: int) -> Iterator[str]:
    short = [text for text in pool if len(text) < 70]
    for _ in range(count):
        yield f"{dice.choice(short)} {dice.choice(short)}"


def heldout_keys(harvard: Iterable[str]) -> set[str]:
    lines = HELDOUT.read_text(encoding="utf-8").splitlines()
    return {normal(line.split("\t", 1)[1]) for line in lines} | {normal(text) for text in harvard}


def harvard_set(folder: Path) -> list[str]:
    lines = (folder / "common-voice.txt").read_text(encoding="utf-8").splitlines()
    return lines[lines.index(HARVARD[0]) : lines.index(HARVARD[1]) + 1]


def distinct(texts: Iterable[str], seen: set[str]) -> list[str]:
    """Those whose normal form was not seen before; `seen` grows."""
    out = []
    for text in texts:
        key = normal(text)
        if key and key not in seen:
            seen.add(key)
            out.append(text)
    return out


def gather(folder: Path, seed: int, scale: float) -> list[str]:
    """All sentences, shuffled; `scale` below 1 makes a small set of the same mixture."""
    dice, held = random.Random(seed), heldout_keys(harvard_set(folder))
    seen = set(held)
    pool: list[str] = []
    for name, most in SOURCES.items():
        found = distinct(from_file(folder / f"{name}.txt"), seen)
        dice.shuffle(found)
        pool += found[: int(most * scale)]
        print(f"{name}: {len(found):,} found, {min(len(found), int(most * scale)):,} taken", flush=True)
    everyday, most = Everyday(seed), int(TEMPLATES * scale)
    spoken = distinct((everyday.sentence() for _ in range(most * 8 // 5)), seen)[:most]
    pairs = distinct(joined(pool + spoken, dice, int(JOINS * scale)), seen)
    texts = [text for text in pool + spoken + pairs if fits(text)]
    dice.shuffle(texts)
    print(f"templates: {len(spoken):,}; joins: {len(pairs):,}; all: {len(texts):,}", flush=True)
    if any(normal(text) in held for text in texts):
        raise AssertionError("a held-out sentence is in the training set")
    return texts


def tagged(text: str, dice: random.Random) -> str:
    """One tag before, after or within the sentence."""
    words = text.split(" ")
    words.insert(dice.choice((0, len(words), dice.randint(0, len(words)))), f"<{dice.choice(TAGS)}>")
    return " ".join(words)


_G2P = None


def phonemes(text: str) -> str:
    global _G2P  # one reader a process; loading it takes a second
    if _G2P is None:
        from hibari.g2p import G2P

        _G2P = G2P()
    return _G2P(text)


def rows(texts: list[str], seed: int, workers: int) -> Iterator[dict]:
    dice, start = random.Random(seed + 1), time.monotonic()
    with multiprocessing.Pool(workers) as pool:
        for n, (text, said) in enumerate(zip(texts, pool.imap(phonemes, texts, chunksize=500), strict=True)):
            if n % 20_000 == 0:
                print(f"{time.monotonic() - start:6.1f} s  phonemes {n:,} of {len(texts):,}", flush=True)
            voices = ["tara", "leo"] if dice.random() < BOTH_VOICES else ["tara"]
            shown = tagged(text, dice) if dice.random() < TAGGED else text
            yield {"id": n, "text": shown, "phonemes": {"us": said}, "voices": voices}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="folder of the source files")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: a smaller set of the same mixture")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    texts = gather(args.texts, args.seed, args.scale)
    with (args.work / "texts.jsonl").open("w", encoding="utf-8") as out:
        for row in rows(texts, args.seed, args.workers):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
