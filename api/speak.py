"""`lyre speak`: one text into one file, the engine running in this process' event loop and no server."""

import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from rich.console import Console

from api.audio import encoder_for, wav_header
from api.progress import loading_bar
from api.settings import Settings
from api.voices import check_voices, resolve_voice
from engine import Engine, InvalidRequest, SamplingParams, SpeechStream
from schemas.speech import ResponseFormat

SUFFIXES: Final = {
    ".wav": ResponseFormat.WAV,
    ".mp3": ResponseFormat.MP3,
    ".flac": ResponseFormat.FLAC,
    ".opus": ResponseFormat.OPUS,
    ".ogg": ResponseFormat.OPUS,
    ".aac": ResponseFormat.AAC,
    ".pcm": ResponseFormat.PCM,
}


@dataclass(frozen=True)
class Job:
    """What to say and where to; `output` None is the standard output."""

    text: str
    output: Path | None
    voice: str | None
    params: SamplingParams
    speed: float = 1.0

    @property
    def format(self) -> ResponseFormat:
        """By the file's suffix; WAV on the standard output."""
        if self.output is None:
            return ResponseFormat.WAV
        suffix = self.output.suffix.lower()
        if suffix not in SUFFIXES:
            raise InvalidRequest("output", f"{self.output}: the suffix must be one of {', '.join(SUFFIXES)}")
        return SUFFIXES[suffix]


@dataclass(frozen=True)
class Report:
    """How it went: seconds until the first audio, of the whole generation, and of the speech (at speed 1)."""

    first: float
    total: float
    audio: float

    def __str__(self) -> str:
        rtf = self.total / self.audio
        return f"{self.audio:.2f} s of speech, first audio after {self.first * 1000:.0f} ms, RTF {rtf:.2f}"


async def speak(settings: Settings, job: Job, console: Console) -> Report:
    """Generate and write; a file appears only when it is whole. Raises EngineError or OSError."""
    audio_format = job.format
    async with _engine(settings, console) as engine:
        info = engine.info
        check_voices(settings.voices, info.voices)
        voice = resolve_voice(job.voice or info.voices[0], info.voices, settings.voices)
        stream = engine.submit(job.text, voice, job.params)
        try:
            with _destination(job.output) as out, console.status("speaking"):
                return await _write(stream, out, audio_format, job)
        finally:
            stream.cancel()


async def _write(stream: SpeechStream, out: BinaryIO, audio_format: ResponseFormat, job: Job) -> Report:
    started = time.monotonic()
    first = 0.0
    written = 0
    encoder = encoder_for(audio_format, job.speed)
    async for pcm in stream:
        first = first or time.monotonic() - started
        written += out.write(encoder.encode(pcm))
        out.flush()
    if not first:
        raise InvalidRequest("text", "the model made no audio for this text")
    total = time.monotonic() - started
    written += out.write(encoder.flush())
    if audio_format is ResponseFormat.WAV and job.output is not None:
        # A stream leaves its length open; a file can have it put right.
        out.seek(0)
        out.write(wav_header(written - len(wav_header())))
    return Report(first, total, stream.audio_seconds)


@asynccontextmanager
async def _engine(settings: Settings, console: Console) -> AsyncIterator[Engine]:
    engine = Engine(settings.engine_config())
    try:
        with loading_bar(console) as progress:
            task = progress.add_task("", total=1.0)
            await engine.start(lambda stage, done: progress.update(task, description=stage, completed=done))
        yield engine
    finally:
        await engine.stop()


@contextmanager
def _destination(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        return
    part = output.with_name(f".{output.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
