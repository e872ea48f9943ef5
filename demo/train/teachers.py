"""The teachers: each turns rows of texts.jsonl into (id, samples) at 24 kHz, trimmed and of one loudness.

"hibari" (a small student of Kokoro's af_heart, numpy and ONNX on one core), "hibari-dsp" (the same made male by signal
processing) and "kokoro" (Kokoro-82M itself in torch, any of its voices).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

RATE = 24_000
LOUDNESS, PEAK = 10 ** (-20 / 20), 0.95
BEFORE, AFTER = RATE * 30 // 1000, RATE * 100 // 1000
STEP = RATE // 100  # 10 ms
SILENT, VOICED = 10 ** (-45 / 20), 10 ** (-25 / 20)  # against the loudest 10 ms
FADE = np.linspace(0, 1, RATE * 5 // 1000, dtype=np.float32)
WINDOW = 4096  # utterances planned at a time: enough for good batches of equal lengths
ROUND = 8  # frames (0.2 s): the last silence is stretched or cut so that more utterances share a length
MOST_FRAMES, MOST_TOKENS = 5120, 8192  # a batch

Row = dict[str, Any]
Spoken = tuple[int, np.ndarray]


def finish(audio: np.ndarray) -> list[np.ndarray]:
    """float32 [B, N] -> int16 each: silence cut to 30 ms before and 100 ms after, -20 dBFS over the voiced parts."""
    count, length = audio.shape
    steps = audio[:, : length // STEP * STEP].reshape(count, -1, STEP)
    level = np.sqrt(np.mean(steps * steps, axis=2))
    loudest = level.max(axis=1, keepdims=True)
    return [
        finish_one(*each) for each in zip(audio, level, level > loudest * SILENT, level > loudest * VOICED, strict=True)
    ]


def finish_one(audio: np.ndarray, level: np.ndarray, sounds: np.ndarray, voiced: np.ndarray) -> np.ndarray:
    at = np.flatnonzero(sounds)
    if not len(at) or not np.isfinite(audio).all():
        return np.zeros(0, np.int16)
    kept = audio[max(0, at[0] * STEP - BEFORE) : (at[-1] + 1) * STEP + AFTER]
    gain = LOUDNESS / np.sqrt(np.mean(level[voiced] ** 2))
    kept = kept * min(gain, PEAK / np.abs(kept).max())
    kept[: len(FADE)] *= FADE
    kept[-len(FADE) :] *= FADE[::-1]
    return np.round(kept * 32767).astype(np.int16)


def hibari(rows: Iterable[Row], *, male: bool = False) -> Iterator[Spoken]:
    from hibari import Hibari
    from hibari.dsp import synth

    tts = Hibari(threads=1)
    for row in rows:
        ids = np.asarray([tts.ids(row["phonemes"]["us"])], np.int64)
        maps = [out[0] for out in tts.sess.run(None, {"ids": ids, "speed": np.ones(1, np.float32)})]
        audio = synth(*(lowered(*maps) if male else maps), np.random.default_rng(row["id"]))
        yield row["id"], finish(audio[None])[0]


def lowered(lh: np.ndarray, th: np.ndarray, ln: np.ndarray, lr: np.ndarray, phi: np.ndarray, f0: np.ndarray) -> tuple:
    """A longer throat: the five spectral maps [bins, frames] moved down to 0.86 of the frequency, the pitch to 0.56."""
    at = np.minimum(np.arange(len(lh)) / 0.86, len(lh) - 1)
    low = np.minimum(at.astype(int), len(lh) - 2)
    part = (at - low).astype(np.float32)[:, None]
    sizes = (table[low] * (1 - part) + table[low + 1] * part for table in (lh, ln, lr))
    angles = (table[np.round(at).astype(int)] for table in (th, phi))
    (harmonic, noise, free), (turn, phase) = sizes, angles
    return harmonic, turn, noise, free, phase, f0 * np.float32(0.56)


class KokoroTeacher:
    """Kokoro with one voice: a style file holds 510 rows, one a length in phonemes."""

    def __init__(self, weights: Path, style: Path, device: str) -> None:
        import torch

        from demo.train.kokoro import Kokoro
        from demo.train.symbols import SYMBOLS

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.set_num_threads(1)
        self.torch, self.device, self.symbols = torch, device, SYMBOLS
        self.model = Kokoro.load(weights, device)
        self.styles = torch.from_numpy(np.fromfile(style, "<f4").reshape(-1, 256)).to(device)

    def ids(self, row: Row) -> list[int]:
        return [0, *(self.symbols[c] for c in row["phonemes"]["us"] if c in self.symbols), 0]

    def __call__(self, rows: Iterable[Row]) -> Iterator[list[Spoken]]:
        """In batches; within a window of rows their order is of chance."""
        self.torch.manual_seed(0)
        for window in chunks(rows, WINDOW):
            with self.torch.inference_mode():
                yield from self.speak_window(window)

    def speak_window(self, window: Sequence[Row]) -> Iterator[list[Spoken]]:
        ids = [self.ids(row) for row in window]
        sounds, starts, frames = self.plan(ids)
        totals = {n: int(frames[n].sum()) for n in frames}
        for batch in equal_batches(totals, MOST_FRAMES):
            index = np.stack([starts[n] + np.repeat(np.arange(len(ids[n])), frames[n]) for n in batch])
            style = self.styles[[len(ids[n]) - 3 for n in batch]]
            audio = self.model.speak(sounds[self.torch.from_numpy(index).to(self.device)], style)
            done = finish(audio.float().cpu().numpy())
            yield [(window[n]["id"], samples) for n, samples in zip(batch, done, strict=True)]

    def plan(self, ids: list[list[int]]) -> tuple[torch.Tensor, dict[int, int], dict[int, np.ndarray]]:
        """(all phonemes' rows one after another, where each utterance starts among them, frames of its phonemes)."""
        sounds, durations, order = [], [], []
        for batch in equal_batches({n: len(each) for n, each in enumerate(ids)}, MOST_TOKENS):
            tokens = self.torch.tensor([ids[n] for n in batch], device=self.device)
            sound, frames = self.model.plan(tokens, self.styles[[len(ids[n]) - 3 for n in batch]])
            sounds.append(sound.flatten(0, 1))
            durations.append(frames.flatten())
            order += batch
        ends = np.cumsum([len(ids[n]) for n in order])
        split = np.split(self.torch.cat(durations).cpu().numpy(), ends[:-1])
        starts = dict(zip(order, [0, *ends[:-1].tolist()], strict=True))
        return self.torch.cat(sounds), starts, {n: rounded(each) for n, each in zip(order, split, strict=True)}


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


def rounded(frames: np.ndarray) -> np.ndarray:
    """The last phoneme, which is silence, takes up the difference to a multiple of ROUND frames."""
    over = int(frames.sum()) % ROUND
    frames = frames.copy()
    frames[-1] += -over if over <= ROUND // 2 and frames[-1] - over >= ROUND else (ROUND - over) % ROUND
    return frames


def equal_batches(sizes: dict[int, int], most: int) -> list[list[int]]:
    """Keys of one size together, at most `most` in sum a batch, the batches in an order of chance."""
    groups: dict[int, list[int]] = defaultdict(list)
    for key, size in sizes.items():
        groups[size].append(key)
    out = [batch for size, keys in groups.items() for batch in chunks(keys, max(1, most // size))]
    np.random.default_rng(0).shuffle(out)
    return out
