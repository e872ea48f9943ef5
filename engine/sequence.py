"""One request inside the engine process: its prompts, its slot, and how far it has got."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from engine.silence import Silence
from engine.windows import SAMPLE_RATE, SAMPLES_PER_FRAME

AGAIN: Final = 2**32
"""How far the seed of a chunk's second take lies from that of its first: beyond all other chunks'."""


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"  # the model ended its speech
    LENGTH = "length"  # the frame budget was used up
    REPETITION = "repetition"  # the model turned in a circle, and the rest of a chunk was left out
    SILENCE = "silence"  # the model fell silent for too long, and the rest of a chunk was left out
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # no slot came free in time


@dataclass(frozen=True)
class Chunk:
    """One piece of text, ready to run: prompt ids, the most frames that it may take, seconds of quiet after it."""

    prompt: list[int]
    max_frames: int
    pause: float = 0.0


@dataclass
class Sequence:
    """A request's chunks are spoken one after another in one slot.

    `repeated`: the current chunk is spoken for the second time. `frames` counts the current chunk's frames, `tokens`
    all audio codes of the request, `prefilled` the tokens of the current prompt that are in the cache, `flying` the
    frames of the chunk that were launched and have not landed.
    `held` is audio that has not been sent yet. `sent` counts the samples that were, the first of them at the time
    `heard_at`. `cut` is why a chunk of it, the first of those that did, ended before the model ended it; `cut_before`
    is the same as it was when the current chunk began. `deadline` is the time until which it may wait for its slot.
    """

    request_id: int
    chunks: list[Chunk]
    seed: int
    max_tokens: int | None = None
    slot: int | None = None
    chunk: int = 0
    repeated: bool = False
    frames: int = 0
    tokens: int = 0
    prefilled: int = 0
    flying: int = 0
    held: bytes = b""
    heard_at: float | None = None
    sent: int = 0
    silence: Silence = field(default_factory=Silence)
    finish_reason: FinishReason | None = None
    cut: FinishReason | None = None
    cut_before: FinishReason | None = None
    deadline: float | None = None

    @property
    def current(self) -> Chunk:
        """The chunk being spoken."""
        return self.chunks[self.chunk]

    @property
    def ready(self) -> bool:
        """Whether the current prompt is in the cache; its last token goes in with the first frame."""
        return self.prefilled >= len(self.current.prompt) - 1

    @property
    def take(self) -> tuple[int, int]:
        """Which chunk is being spoken, and how often it was begun before."""
        return self.chunk, int(self.repeated)

    @property
    def chunk_seed(self) -> int:
        """Each chunk draws its own random numbers; the first chunk's are the request's. A 64-bit number, wrapping."""
        return (self.seed + self.chunk + self.repeated * AGAIN + 2**63) % 2**64 - 2**63

    @property
    def length(self) -> int:
        """Tokens of the current chunk in the slot's cache, or about to be."""
        return len(self.current.prompt) + 7 * (self.frames + self.flying)

    @property
    def spent(self) -> bool:
        """Whether the request's own `max_tokens` leave no room for a further frame."""
        return self.max_tokens is not None and self.tokens + 7 > self.max_tokens

    @property
    def launchable(self) -> bool:
        """Whether a further frame may be needed, whatever those in flight bring."""
        frames, tokens = self.frames + self.flying, self.tokens + 7 * self.flying
        spent = self.max_tokens is not None and frames > 0 and tokens + 7 > self.max_tokens
        return self.ready and frames < self.current.max_frames and not spent

    def lead(self, now: float) -> float:
        """Seconds that a listener who began with the first sample could still go on with what is sent or in flight."""
        assert self.heard_at is not None
        return (self.sent + self.flying * SAMPLES_PER_FRAME) / SAMPLE_RATE - (now - self.heard_at)

    @property
    def input_tokens(self) -> int:
        """Prompt tokens of all chunks."""
        return sum(len(chunk.prompt) for chunk in self.chunks)
