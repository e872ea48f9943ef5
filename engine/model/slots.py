"""Per-slot state that lives on the device for as long as the engine: what a stream's next frame depends on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS

NEVER_SEEN = -(2**30)
WHOLE_WINDOW = 2**29  # a repetition window that no stream outgrows


@dataclass(frozen=True)
class Sampling:
    """One stream's final sampling values. `top_k` 0 is off, 1 is greedy; `window` counts steps back, 0 means all."""

    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    window: int
    seed: int


class SlotState:
    """Static tensors, one entry a slot. `token` is the last token, whose key and value are not in the cache yet."""

    def __init__(self, slots: int, device: torch.device) -> None:
        def entry(dtype: torch.dtype) -> Tensor:
            return torch.zeros(slots, dtype=dtype, device=device)

        self.token, self.position = entry(torch.int64), entry(torch.int64)
        self.frame, self.seed = entry(torch.int64), entry(torch.int64)
        self.temperature, self.top_p, self.penalty = (entry(torch.float32) for _ in range(3))
        self.top_k, self.window = entry(torch.int32), entry(torch.int32)
        # The step at which a slot last drew each code: one tensor serves any repetition window.
        self.last_seen = torch.full((slots, FRAME_TOKENS, CODEBOOK_SIZE), NEVER_SEEN, dtype=torch.int32, device=device)

    def start(self, slot: int, token: int, position: int, sampling: Sampling) -> None:
        """Puts a stream into a slot: its last prompt token and how it is sampled."""
        greedy = sampling.temperature == 0.0
        self.token[slot], self.position[slot], self.frame[slot] = token, position, 0
        self.seed[slot] = sampling.seed
        self.temperature[slot] = 1.0 if greedy else max(sampling.temperature, 1e-3)
        self.top_p[slot] = sampling.top_p
        self.top_k[slot] = 1 if greedy else sampling.top_k
        self.penalty[slot] = sampling.repetition_penalty
        self.window[slot] = min(sampling.window, WHOLE_WINDOW) or WHOLE_WINDOW
        self.last_seen[slot] = NEVER_SEEN
