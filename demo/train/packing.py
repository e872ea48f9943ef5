"""The training corpus on the device, and packed batches cut from it without the host.

All prompts and codes lie in two flat int16 arrays in device memory. The host plans an epoch (which documents make up
which batch) as one small table; `assemble` turns a row of it into a `Batch` of fixed shapes, so that a CUDA graph can.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from demo.train.lm_model import Batch
from demo.train.tokenizer import ALPHABET, AUDIO, CODES, PAD, SLOTS, encode, prompt

HELD_OUT = 300  # texts with smaller ids are never trained on
WITHOUT_FINAL_MARK, WITHOUT_COMMAS = 0.10, 0.05
VARIANTS = 3
COMMA, FINAL_MARKS = ALPHABET.index(","), {ALPHABET.index(mark) for mark in ".?!,;:"}
LONGEST = 2048  # tokens in a document; the few that are longer are left out
FRAME_SECONDS = 2048 / 24000


class Utterance(NamedTuple):
    """A text, who speaks it, and its codes (frames, 7) as 0..4095."""

    index: int
    voice: str
    text: str
    codes: np.ndarray


def variants(text: list[int]) -> tuple[list[int], list[int], list[int]]:
    """A text's ids as written, without its final punctuation, and without commas."""
    end = len(text)
    while end and text[end - 1] in FINAL_MARKS:
        end -= 1
    return text, text[:end], [index for index in text if index != COMMA]


def plausible(text: str, frames: int) -> bool:
    """Whether speech of this length can be that text: teachers fail now and then."""
    seconds = frames * FRAME_SECONDS
    return frames >= 3 and 0.025 * len(text) <= seconds <= 2.0 + 0.4 * len(text)


def load_utterances(work: Path) -> list[Utterance]:
    """All utterances of WORK/codes that have their text in WORK/texts.jsonl, in a fixed order."""
    with (work / "texts.jsonl").open(encoding="utf-8") as lines:
        texts = {row["id"]: row["text"] for row in map(json.loads, lines)}
    found = []
    for path in sorted((work / "codes").glob("*.npz")):
        with np.load(path) as arrays:
            if "id" not in arrays:
                continue  # a part that an encoding run left behind
            codes, columns = arrays["codes"], [arrays[name].tolist() for name in ("id", "start", "frames")]
        for index, start, frames in zip(*columns, strict=True):
            text = texts.get(index)
            if text is not None and plausible(text, frames):
                found.append(Utterance(index, path.stem, text, codes[start : start + frames]))
    return found


def synthetic_utterances(count: int, seed: int = 0) -> list[Utterance]:
    """Random texts whose codes are a simple function of their characters: something that can be learned at once."""
    random = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
    codes_of = random.integers(0, CODES, (len(letters), SLOTS))
    found = []
    for index in range(count):
        spelled = random.integers(0, len(letters), random.integers(20, 70))
        text = "".join(letters[spelled]).strip() or "a"
        place = np.array([np.flatnonzero(letters == letter)[0] for letter in text])
        found.append(Utterance(index, ("tara", "leo")[index % 2], text + ".", codes_of[place].astype(np.uint16)))
    return found


@dataclass
class Corpus:
    """Flat token arrays on the device; where each document's prompt variants and codes lie, on the host."""

    prompt_tokens: Tensor
    code_tokens: Tensor
    prompt_start: np.ndarray  # (documents, VARIANTS)
    prompt_length: np.ndarray
    code_start: np.ndarray  # (documents,) in frames
    frames: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def lengths(self) -> np.ndarray:
        """Each document's tokens with its longest prompt; end of speech is only ever a target."""
        return self.prompt_length.max(1) + SLOTS * self.frames

    @property
    def longest(self) -> int:
        """The length of the longest document, rounded up to a multiple of 64."""
        return -(-int(self.lengths.max()) // 64) * 64


def build_corpus(utterances: Sequence[Utterance], tokenizer: Tokenizer, device: torch.device) -> Corpus:
    """Tokenise and lay out utterances; documents over LONGEST tokens are dropped."""
    texts = encode(tokenizer, [f"{item.voice}: {item.text}" for item in utterances])
    ids = [prompt(variant) for text in texts for variant in variants(text)]
    prompt_length = np.array([len(row) for row in ids], np.int64).reshape(-1, VARIANTS)
    prompt_start = np.cumsum(prompt_length).reshape(-1, VARIANTS) - prompt_length
    frames = np.array([len(item.codes) for item in utterances], np.int64)
    code_start = np.cumsum(frames) - frames
    codes = np.concatenate([item.codes for item in utterances]).astype(np.int32)
    codes += AUDIO + CODES * np.arange(SLOTS, dtype=np.int32)
    kept = prompt_length.max(1) + SLOTS * frames <= LONGEST
    return Corpus(
        torch.from_numpy(np.fromiter(chain.from_iterable(ids), np.int16)).to(device),
        torch.from_numpy(codes.astype(np.int16)).flatten().to(device),
        prompt_start[kept],
        prompt_length[kept],
        code_start[kept],
        frames[kept],
    )


@dataclass(frozen=True)
class Room:
    """The fixed sizes of a batch: tokens, rows of the table of documents, and frames with ends (`units`)."""

    tokens: int
    documents: int
    units: int
    longest: int

    @property
    def fillers(self) -> int:
        """Table rows kept free so that padding can be cut into documents of at most `longest` tokens."""
        return -(-self.tokens // self.longest) + 1


def measure_room(corpus: Corpus, tokens: int) -> Room:
    """Room for `tokens` of average documents, with a little to spare."""
    share = tokens / corpus.lengths.sum()
    documents = int(1.25 * share * len(corpus)) + 8
    units = min(1.01 * share * (corpus.frames + 1).sum() + 32, tokens / SLOTS)
    longest = min(corpus.longest, tokens)
    return Room(tokens, documents + -(-tokens // longest) + 1, -(-int(units) // 64) * 64, longest)


def plan_epoch(corpus: Corpus, room: Room, random: np.random.Generator, augment: bool = True) -> np.ndarray:
    """(batches, room.documents, 4) int32: prompt start, prompt length, first frame, frames; empty rows are zero.

    Documents are shuffled and each speaks one variant of its text. With `augment` the last batch, which would be mostly
    padding, is left to the next epoch's order.
    """
    order = random.permutation(len(corpus)) if augment else np.arange(len(corpus))
    odds = (1 - WITHOUT_FINAL_MARK - WITHOUT_COMMAS, WITHOUT_FINAL_MARK, WITHOUT_COMMAS) if augment else (1, 0, 0)
    chosen = random.choice(VARIANTS, len(order), p=odds)
    table = np.stack(
        (
            corpus.prompt_start[order, chosen],
            corpus.prompt_length[order, chosen],
            corpus.code_start[order],
            corpus.frames[order],
        ),
        axis=1,
    ).astype(np.int32)
    edges = _cut(table, room)
    if augment and len(edges) > 2:
        edges.pop()
    plan = np.zeros((len(edges) - 1, room.documents, 4), np.int32)
    for row, (start, end) in zip(plan, pairwise(edges), strict=True):
        row[: end - start] = table[start:end]
    return plan


def _cut(table: np.ndarray, room: Room) -> list[int]:
    """Where each batch begins in the table of documents, and where the last one ends."""
    tokens = np.cumsum(table[:, 1] + SLOTS * table[:, 3])
    units = np.cumsum(table[:, 3] + 1)
    edges = [0]
    while edges[-1] < len(table):
        start = edges[-1]
        used = (tokens[start - 1], units[start - 1]) if start else (0, 0)
        end = min(
            np.searchsorted(tokens, used[0] + room.tokens, side="right"),
            np.searchsorted(units, used[1] + room.units, side="right"),
            start + room.documents - room.fillers,
        )
        if end == start:
            raise ValueError(f"a document is longer than a batch of {room.tokens} tokens")
        edges.append(int(end))
    return edges


def assemble(row: Tensor, corpus: Corpus, room: Room, corrupt: float) -> Batch:
    """The batch of one row (documents, 4) of a plan; `corrupt` is the share of input codes replaced by random ones."""
    prompt_start, prompt_length, code_start, frames = row.long().unbind(1)
    real = frames > 0
    lengths = (prompt_length + SLOTS * frames).masked_fill(~real, room.longest)
    ends = lengths.cumsum(0).clamp(max=room.tokens)
    begins = torch.cat((ends.new_zeros(1), ends[:-1]))
    place = torch.arange(room.tokens, device=row.device)
    owner = torch.searchsorted(ends, place, right=True).clamp(max=len(row) - 1)
    offset = place - begins[owner]
    code_offset = offset - prompt_length[owner]
    clean = _tokens(corpus, prompt_start[owner] + offset, SLOTS * code_start[owner] + code_offset, code_offset >= 0)
    tokens = _corrupted(clean, code_offset, corrupt).masked_fill(~real[owner], PAD)
    rows, targets, mask = _predictions(corpus, room, frames, begins + prompt_length, code_start)
    bounds = torch.cat((ends.new_zeros(1), ends)).int()
    return Batch(tokens, offset, bounds, rows, targets, mask)


def _tokens(corpus: Corpus, prompt_place: Tensor, code_place: Tensor, is_code: Tensor) -> Tensor:
    prompt = corpus.prompt_tokens[prompt_place.clamp(0, len(corpus.prompt_tokens) - 1)]
    code = corpus.code_tokens[code_place.clamp(0, len(corpus.code_tokens) - 1)]
    return torch.where(is_code, code, prompt).long()


def _corrupted(tokens: Tensor, code_offset: Tensor, share: float) -> Tensor:
    """Some codes replaced by another of their slot: the model must live with its own slips when it speaks."""
    if share == 0:
        return tokens
    other = AUDIO + CODES * (code_offset % SLOTS) + torch.randint(CODES, tokens.shape, device=tokens.device)
    hit = (torch.rand(tokens.shape, device=tokens.device) < share) & (code_offset >= 0)
    return torch.where(hit, other, tokens)


def _predictions(
    corpus: Corpus, room: Room, frames: Tensor, first_code: Tensor, code_start: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`rows`, `targets` and `mask` of a Batch: every frame's seven codes, and one end of speech a document."""
    ends = (frames + (frames > 0)).cumsum(0)
    unit = torch.arange(room.units, device=frames.device)
    owner = torch.searchsorted(ends, unit, right=True).clamp(max=len(frames) - 1)
    frame = unit - (ends[owner] - frames[owner] - 1)
    slot = torch.arange(SLOTS, device=frames.device)[:, None]
    is_code = (frame >= 0) & (frame < frames[owner])
    is_end = (frame == frames[owner]) & (unit < ends[-1])
    place = (SLOTS * (code_start[owner] + frame) + slot).clamp(0, len(corpus.code_tokens) - 1)
    code = corpus.code_tokens[place].long() - AUDIO - CODES * slot
    used = is_code | (is_end & (slot == 0))
    targets = code.masked_fill(is_end, CODES).masked_fill(~used, 0)
    rows = first_code[owner] + SLOTS * frame + slot - 1
    # Rows that predict nothing are spread over the batch: in one place their gradients would queue up to be added.
    return torch.where(used, rows, unit % room.tokens), targets, used.float()
