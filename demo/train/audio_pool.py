"""A pool of int16 speech on the training device, fed from WORK/audio while synthesis is still writing there.

Each voice has one stretch of memory. A file is read as far as its index (.jsonl) says; a rank takes the files whose
worker number falls to it. `crops` gives half of a batch to each voice and avoids silence.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

RATE = 24_000
BYTES = 2
PIECE = 60 * RATE  # samples a copy: enough to be quick, little enough to share the bus
QUIET = 0.3  # a crop under this part of the usual loudness is drawn again
TAIL_SHARE = 32  # one crop in so many ends in digital silence, like a clip padded to whole frames
POLL_SECONDS = 2.0


@dataclass
class GrowingFile:
    """One .pcm file and how much of it, and of its index, was read."""

    pcm: Path
    index: Path
    read_bytes: int = 0
    taken: int = 0
    complete: int = 0

    def look(self) -> None:
        """Reads the new whole lines of the index: `complete` is then the end of the last finished utterance."""
        with self.index.open("rb") as file:
            file.seek(self.read_bytes)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self.read_bytes += len(lines)
        for line in lines.splitlines():
            row = json.loads(line)
            self.complete = max(self.complete, row["start"] + row["length"])

    def take(self, most: int) -> np.ndarray:
        count = min(most, self.complete - self.taken)
        samples = np.fromfile(self.pcm, np.int16, count, offset=self.taken * BYTES)
        self.taken += len(samples)
        return samples


def voice_files(folder: Path, voice: str) -> list[Path]:
    return sorted(folder.glob(f"{voice}-*.pcm"))


def worker_of(pcm: Path) -> int:
    return int(pcm.stem.rsplit("-", 1)[1])


@dataclass
class AudioPool:
    """`hours` of room a voice. Thread-safe for one writer (`fill`) and one reader (`crops`)."""

    voices: tuple[str, ...]
    device: torch.device
    hours: float
    folder: Path | None = None
    rank: int = 0
    world: int = 1
    seed: int = 0
    filled: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.room = int(self.hours * 3600 * RATE)
        self.samples = torch.zeros(len(self.voices), self.room, dtype=torch.int16, device=self.device)
        self.filled = [0] * len(self.voices)
        self.files: dict[Path, GrowingFile] = {}
        self.random = torch.Generator(self.device).manual_seed(self.seed * 1000 + self.rank)
        self.stopped = threading.Event()

    def append(self, voice: int, samples: np.ndarray) -> None:
        start = self.filled[voice]
        count = min(len(samples), self.room - start)
        self.samples[voice, start : start + count].copy_(torch.from_numpy(samples[:count]))
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        self.filled[voice] = start + count

    def mine(self, voice: str) -> list[GrowingFile]:
        """This rank's files of a voice; all of them while there are fewer files than ranks."""
        paths = voice_files(self.folder, voice)
        shared = len(paths) < self.world
        for path in paths:
            index = path.with_suffix(".jsonl")
            if path not in self.files and index.exists() and (shared or worker_of(path) % self.world == self.rank):
                self.files[path] = GrowingFile(path, index)
        return [self.files[path] for path in paths if path in self.files]

    def fill(self, most: int) -> int:
        """Reads up to `most` new samples a voice; returns how many came."""
        came = 0
        for voice, name in enumerate(self.voices):
            left = min(most, self.room - self.filled[voice])
            for file in self.mine(name):
                file.look()
                while left > 0 and len(samples := file.take(min(PIECE, left))):
                    self.append(voice, samples)
                    left -= len(samples)
                    came += len(samples)
        return came

    def wait(self, samples: int, seconds: float) -> None:
        """Fills until each voice has `samples`, or raises TimeoutError."""
        limit = time.monotonic() + seconds
        while min(self.filled) < samples:
            if self.fill(samples):
                continue
            if time.monotonic() > limit:
                raise TimeoutError(f"{self.folder}: {self.filled} samples of {self.voices} after {seconds:.0f} s")
            time.sleep(0.2)

    def follow(self) -> None:
        """Goes on filling in a thread until `stopped` is set or the pool is full."""
        threading.Thread(target=self._follow, name="audio-pool", daemon=True).start()

    def _follow(self) -> None:
        aside = nullcontext()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # a new thread starts on device 0
            aside = torch.cuda.stream(torch.cuda.Stream(self.device))
        with aside:
            while not self.stopped.is_set() and min(self.filled) < self.room:
                if not self.fill(4 * PIECE):
                    self.stopped.wait(POLL_SECONDS)

    def _starts(self, voice: int, count: int, length: int) -> Tensor:
        return torch.randint(self.filled[voice] - length, (count, 1), generator=self.random, device=self.device)

    def _draw(self, voice: int, count: int, length: int) -> Tensor:
        """Crops of one voice, drawn twice where the first draw is mostly silence."""
        reach = torch.arange(length, device=self.device)
        first, second = (
            self.samples[voice][self._starts(voice, count, length) + reach].float() / 32768 for _ in range(2)
        )
        loudness = first.square().mean(1, keepdim=True)
        return torch.where(loudness < QUIET**2 * loudness.mean(), second, first)

    def crops(self, count: int, length: int) -> Tensor:
        """[count, 1, length] in -1..1."""
        shares = [count // len(self.voices)] * len(self.voices)
        shares[0] += count - sum(shares)
        audio = torch.cat([self._draw(voice, share, length) for voice, share in enumerate(shares)])
        draw = torch.rand((2, count, 1), generator=self.random, device=self.device)
        ends = torch.where(draw[0] < 1 / TAIL_SHARE, draw[1] * length, length)
        return (audio * (torch.arange(length, device=self.device) < ends)).unsqueeze(1)

    @property
    def total_hours(self) -> float:
        return sum(self.filled) / RATE / 3600


def synthetic_speech(seconds: float, pitch: float, seed: int) -> np.ndarray:
    """int16 tones with moving harmonics, breaks and breath: enough to exercise the trainer, not speech."""
    random = np.random.default_rng(seed)
    n = int(seconds * RATE)
    t = np.arange(n) / RATE
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 1.7 * t))) / RATE
    weights = np.abs(np.sin(np.outer(np.arange(1, 12), 0.9 + 2 * np.pi * 0.6 * t / 5))) / np.arange(1, 12)[:, None]
    voiced = sum(w * np.sin((k + 1) * phase) for k, w in enumerate(weights))
    gate = np.clip(3 * np.sin(2 * np.pi * 2.3 * t) + 1.5, 0, 1)
    wave = 0.12 * gate * voiced + 0.02 * (1 - gate) * random.standard_normal(n)
    return (np.clip(wave, -0.95, 0.95) * 32767).astype(np.int16)
