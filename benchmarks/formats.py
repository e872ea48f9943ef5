"""One text in every format and at several speeds from a running server: when it comes, and whether it is the same.

    python -m benchmarks.formats --url http://127.0.0.1:8000 --rounds 10

The formats take turns, so that what else the machine does falls on all of them. First audio is when what has arrived
can be decoded to a sample. Share is how much of the time that the whole answer took had passed by then: generation is
even, so about as much of the audio existed. Tables for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from benchmarks.hearing import RATE, Samples, decoded, match, pitch_ratio
from benchmarks.report import commit
from benchmarks.serve import LONG

FORMATS = ["pcm", "wav", "flac", "opus", "mp3", "aac"]
SPEEDS = [0.25, 0.5, 1.5, 2.0, 4.0]


@dataclass(frozen=True)
class Answer:
    """One request as the client saw it: seconds since it was sent, and all bytes that had come by then."""

    audio_format: str
    arrivals: list[tuple[float, int]]
    data: bytes

    @property
    def first_byte(self) -> float:
        return self.arrivals[0][0]

    @property
    def total(self) -> float:
        return self.arrivals[-1][0]

    def first_audio(self) -> float:
        """When the bytes that had come could be decoded to a sample."""
        for moment, length in self.arrivals:
            if len(decoded(self.data[:length], self.audio_format)):
                return moment
        raise SystemExit(f"{self.audio_format}: an answer without audio")


@dataclass(frozen=True)
class FormatRow:
    """Medians over the rounds; `after_pcm` compares with pcm in the same round. Delay and extra are ms of audio."""

    format: str
    first_byte_ms: float
    first_audio_ms: float
    first_byte_after_pcm_ms: float
    first_audio_after_pcm_ms: float
    worst_first_audio_after_pcm_ms: float
    share_pct: float
    kilobytes: float
    seconds: float
    delay_ms: float
    extra_ms: float
    correlation: float
    tail_correlation: float


@dataclass(frozen=True)
class SpeedRow:
    """One voice at one speed, as pcm."""

    voice: str
    speed: float
    first_byte_ms: float
    share_pct: float
    seconds: float
    duration_error_pct: float
    pitch_ratio: float


class Listener:
    """Asks one server for one text."""

    def __init__(self, url: str, text: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=120)
        self._text = text

    def ask(self, audio_format: str, voice: str, seed: int, speed: float = 1.0) -> Answer:
        """The answer, read as it comes."""
        body = {"model": "tts-1", "input": self._text, "voice": voice, "seed": seed, "speed": speed}
        began, data, arrivals = time.perf_counter(), bytearray(), []
        with self._client.stream("POST", "/v1/audio/speech", json=body | {"response_format": audio_format}) as response:
            if response.status_code != 200:
                raise SystemExit(f"{response.status_code}: {response.read().decode()}")
            for part in response.iter_raw():
                data += part
                arrivals.append((time.perf_counter() - began, len(data)))
        if not data:
            raise SystemExit(f"{audio_format}: an empty answer")
        return Answer(audio_format, arrivals, bytes(data))


def formats(listener: Listener, voices: Sequence[str], rounds: int) -> list[FormatRow]:
    """One row a format."""
    answers: dict[str, list[Answer]] = {audio_format: [] for audio_format in FORMATS}
    order = random.Random(1)
    for audio_format in FORMATS:
        listener.ask(audio_format, voices[0], 0)  # warms both ends up
    for number in range(rounds):
        for audio_format in order.sample(FORMATS, len(FORMATS)):
            answers[audio_format].append(
                listener.ask(audio_format, voices[number % len(voices)], number // len(voices))
            )
    return [format_row(answers[audio_format], answers["pcm"]) for audio_format in FORMATS]


def format_row(answers: Sequence[Answer], plain: Sequence[Answer]) -> FormatRow:
    """Times over all rounds; the sound is judged by the worst of one round of each voice."""
    audio = [answer.first_audio() for answer in answers]
    later = [moment - pcm.first_byte for moment, pcm in zip(audio, plain, strict=True)]
    bytes_later = [answer.first_byte - pcm.first_byte for answer, pcm in zip(answers, plain, strict=True)]
    sound = [compared(answer, pcm) for answer, pcm in zip(answers[:2], plain[:2], strict=True)]
    last = answers[-1]
    return FormatRow(
        format=last.audio_format,
        first_byte_ms=milliseconds(statistics.median(answer.first_byte for answer in answers)),
        first_audio_ms=milliseconds(statistics.median(audio)),
        first_byte_after_pcm_ms=milliseconds(statistics.median(bytes_later)),
        first_audio_after_pcm_ms=milliseconds(statistics.median(later)),
        worst_first_audio_after_pcm_ms=milliseconds(max(later)),
        share_pct=round(100 * max(m / answer.total for m, answer in zip(audio, answers, strict=True)), 1),
        kilobytes=round(len(last.data) / 1000, 1),
        seconds=round(len(decoded(last.data, last.audio_format)) / RATE, 3),
        delay_ms=max(s["delay_ms"] for s in sound),
        extra_ms=max((s["extra_ms"] for s in sound), key=abs),
        correlation=min(s["correlation"] for s in sound),
        tail_correlation=min(s["tail"] for s in sound),
    )


def compared(answer: Answer, plain: Answer) -> dict[str, float]:
    """Against pcm: the codec's delay, what it adds besides, and how alike the two are."""
    heard, reference = decoded(answer.data, answer.audio_format), decoded(plain.data, "pcm")
    found = match(heard, reference)
    return {
        "delay_ms": milliseconds(found.delay / RATE),
        "extra_ms": milliseconds((len(heard) - len(reference) - found.delay) / RATE),
        "correlation": round(found.correlation, 4),
        "tail": round(found.tail, 4),
    }


def speeds(listener: Listener, voices: Sequence[str], rounds: int) -> list[SpeedRow]:
    """One row for each voice and speed; the times are medians."""
    rows = []
    for voice in voices:
        original = decoded(listener.ask("pcm", voice, 0).data, "pcm")
        for speed in SPEEDS:
            answers = [listener.ask("pcm", voice, 0, speed) for _ in range(rounds)]
            rows.append(speed_row(voice, speed, answers, original))
    return rows


def speed_row(voice: str, speed: float, answers: Sequence[Answer], original: Samples) -> SpeedRow:
    spoken = decoded(answers[0].data, "pcm")
    return SpeedRow(
        voice=voice,
        speed=speed,
        first_byte_ms=milliseconds(statistics.median(answer.first_byte for answer in answers)),
        share_pct=round(100 * max(answer.first_byte / answer.total for answer in answers), 1),
        seconds=round(len(spoken) / RATE, 3),
        duration_error_pct=round(100 * (len(spoken) * speed / len(original) - 1), 2),
        pitch_ratio=round(pitch_ratio(spoken, original, speed), 4),
    )


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)


def print_table(rows: Sequence[Any]) -> None:
    names = list(asdict(rows[0]))
    print("  ".join(f"{name:>{max(7, len(name))}}" for name in names))
    for row in rows:
        print("  ".join(f"{value!s:>{max(7, len(name))}}" for name, value in asdict(row).items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=10, help="requests for each format; a third for each speed")
    parser.add_argument("--voices", nargs="+", default=["tara", "leo"])
    parser.add_argument("--text", default=LONG[0])
    args = parser.parse_args()
    listener = Listener(args.url, args.text)
    tables = {"formats": formats(listener, args.voices, args.rounds)}
    print_table(tables["formats"])
    print()
    stretched = speeds(listener, args.voices, max(1, args.rounds // 3))
    print_table(stretched)
    document = {"commit": commit(), "machine": f"{platform.machine()}, {platform.system()}"}
    document |= {"formats": [asdict(r) for r in tables["formats"]], "speeds": [asdict(r) for r in stretched]}
    print(json.dumps(document))


if __name__ == "__main__":
    main()
