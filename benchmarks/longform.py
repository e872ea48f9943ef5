"""Speaks a long text over HTTP and listens: underruns at real-time playback, inner silences, every sentence in order.

    python -m benchmarks.longform --url http://127.0.0.1:8000 --wav long.wav --asr /models/faster-whisper-base

The text is `texts/long.txt`, of 4,096 characters, unless --text names another. --asr needs faster-whisper, which is no
dependency of Lyre: the recogniser's words are aligned with those of the normalised text. --heard judges a wav that was
made before. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import wave
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from pathlib import Path

import httpx
import numpy as np

from engine.text import Normaliser
from engine.text.sentences import paragraphs, sentences

TEXT = Path(__file__).with_name("texts") / "long.txt"
RATE = 24_000
BYTES_PER_SECOND = 2 * RATE
AUDIBLE = 10 ** (-40 / 20)
WINDOW = RATE // 100
FOUND = 0.5
"""The share of a sentence's words that must be heard, in its place, for the sentence to count as spoken."""


@dataclass(frozen=True)
class Played:
    """The stream as a player with no buffer has it; all times in seconds."""

    first_audio: float
    total: float
    audio: float
    underruns: int
    late: float  # the longest that playback had to wait
    least_ahead: float  # the least unheard audio after the first second


@dataclass(frozen=True)
class Quiet:
    """Silences between the first and the last sound."""

    longest: float
    at: float
    over_one_second: int


@dataclass(frozen=True)
class Words:
    """The recogniser's words against the text's."""

    words: int
    word_error_rate: float
    sentences: int
    missing: list[str]
    repeated: list[str]


def speak(url: str, text: str, voice: str, seed: int) -> tuple[np.ndarray, Played]:
    """One request for pcm; -> samples in -1..1 and how they came."""
    body = {"model": "tts-1", "input": text, "voice": voice, "response_format": "pcm", "seed": seed}
    pcm = bytearray()
    arrivals: list[tuple[float, int]] = []
    began = time.perf_counter()
    with httpx.stream("POST", f"{url}/v1/audio/speech", json=body, timeout=600) as response:
        if response.status_code != 200:
            raise SystemExit(f"{response.status_code}: {response.read().decode()}")
        for part in response.iter_raw():
            arrivals.append((time.perf_counter() - began, len(pcm)))
            pcm += part
    total = time.perf_counter() - began
    return np.frombuffer(bytes(pcm), "<i2").astype(np.float32) / 32768, played(arrivals, len(pcm), total)


def played(arrivals: list[tuple[float, int]], size: int, total: float) -> Played:
    """`arrivals`: when, and how many bytes had come before. Playback starts with the first and waits when it must."""
    first = start = arrivals[0][0]
    underruns, late, ahead = 0, 0.0, []
    for now, before in arrivals[1:]:
        left = before / BYTES_PER_SECOND - (now - start)
        if now - first > 1:
            ahead.append(left)
        if left < 0:
            underruns, late, start = underruns + 1, max(late, -left), start - left
    return Played(first, total, size / BYTES_PER_SECOND, underruns, late, min(ahead, default=0.0))


def quiet(samples: np.ndarray) -> Quiet:
    """Windows of 10 ms under -40 dB of full scale are silent."""
    windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
    loud = np.flatnonzero(np.sqrt((windows**2).mean(1)) > AUDIBLE)
    gaps = (np.diff(loud) - 1) * WINDOW / RATE
    worst = int(gaps.argmax())
    return Quiet(float(gaps[worst]), float(loud[worst] * WINDOW / RATE), int((gaps > 1).sum()))


def listen(wav: Path, model: str, threads: int) -> str:
    """What the recogniser hears."""
    try:
        from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SystemExit("--asr needs faster-whisper: pip install faster-whisper") from None
    whisper = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=threads)
    parts, _ = whisper.transcribe(str(wav), language="en", beam_size=2, condition_on_previous_text=False)
    return " ".join(part.text for part in parts)


def plain_words(text: str) -> list[str]:
    """Words to compare by: numbers in words, no punctuation, no emotion tags."""
    text = re.sub(r"<\w+>", " ", Normaliser()(text)).lower().replace("’", "'")
    return re.findall(r"[a-z']+", text.replace("-", " "))


def compared(text: str, heard: str) -> Words:
    """Aligns word by word; a sentence is missing when less than half of it is heard where it belongs."""
    spoken = [s.strip() for block in paragraphs(Normaliser()(text)) for line in block for s in sentences(line)]
    parts = [(sentence, words) for sentence in spoken if (words := plain_words(sentence))]
    wanted, got = [word for _, words in parts for word in words], plain_words(heard)
    matched = [False] * len(wanted)
    wrong = 0
    for kind, a, b, c, d in SequenceMatcher(None, wanted, got, autojunk=False).get_opcodes():
        matched[a:b] = [kind == "equal"] * (b - a)
        wrong += 0 if kind == "equal" else max(b - a, d - c)
    missing, at = [], 0
    for sentence, words in parts:
        if sum(matched[at : at + len(words)]) < FOUND * len(words):
            missing.append(sentence)
        at += len(words)
    return Words(len(wanted), wrong / len(wanted), len(parts), missing, repeated(parts, got))


def repeated(parts: list[tuple[str, list[str]]], got: list[str]) -> list[str]:
    """Sentences of five words or more that are heard more often than they are written."""
    line, text = " ".join(got), " ".join(word for _, words in parts for word in words)
    phrases = ((sentence, " ".join(words)) for sentence, words in parts if len(words) >= 5)
    return [sentence for sentence, phrase in phrases if line.count(phrase) > max(1, text.count(phrase))]


def write_wav(path: Path, samples: np.ndarray) -> None:
    """16-bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(samples * 32768).clip(-32768, 32767).astype("<i2").tobytes())


def read_wav(path: Path) -> np.ndarray:
    """The samples of such a file."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def main() -> None:
    """Speak, measure, listen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a running server")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--voice", default="tara")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--wav", type=Path, default=Path("long.wav"), help="where the speech is written")
    parser.add_argument("--heard", action="store_true", help="judge the wav that is there; ask no server")
    parser.add_argument("--asr", help="a Whisper model for faster-whisper: a folder or a name")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if not args.heard and not args.url:
        parser.error("--url or --heard")
    text = args.text.read_text(encoding="utf-8")
    report: dict[str, object] = {"characters": len(text)}
    if not args.heard:
        report |= {"voice": args.voice, "seed": args.seed}
        samples, stream = speak(args.url, text, args.voice, args.seed)
        write_wav(args.wav, samples)
        report["played"] = asdict(stream)
    report["quiet"] = asdict(quiet(read_wav(args.wav)))
    if args.asr:
        heard = listen(args.wav, args.asr, args.threads)
        args.wav.with_suffix(".txt").write_text(heard, encoding="utf-8")
        report["words"] = asdict(compared(text, heard))
    for name, value in report.items():
        print(f"{name:12} {value}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
