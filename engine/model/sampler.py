"""Slot-constrained sampling in torch: repetition penalty, temperature, top-k, top-p, then one keyed draw a row.

The order is transformers' and vLLM's. Each row depends on its own slot's state alone. The draw is an inverse CDF in
index order, so equal logits give equal codes on every backend.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.model.rng import keyed_uniform
from engine.model.slots import SlotState
from engine.model.weights import END_ROW
from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS


def sample(logits: Tensor, k: int, state: SlotState, slots: Tensor, min_frames: int) -> Tensor:
    """Draws slot k's code for each row. logits [B, >= 4097] float32, slots [B]; -> int64 [B], END_ROW: speech ends.

    End of speech is legal at k = 0 only, and not before `min_frames` frames.
    """
    frame = state.frame[slots]
    step = frame * FRAME_TOKENS + k
    codes = _penalised(logits[:, :CODEBOOK_SIZE], k, step, state, slots)
    end = logits[:, END_ROW : END_ROW + 1]
    may_end = (frame >= min_frames)[:, None] if k == 0 else torch.zeros_like(end, dtype=torch.bool)
    scaled = torch.cat([codes, end.masked_fill(~may_end, -torch.inf)], dim=-1) / state.temperature[slots][:, None]
    top_k = state.top_k[slots]
    kept = _truncated(scaled, top_k, state.top_p[slots])
    drawn = _draw(kept, keyed_uniform(state.seed[slots], step))
    return torch.where(top_k == 1, scaled.argmax(-1), drawn)


def _penalised(codes: Tensor, k: int, step: Tensor, state: SlotState, slots: Tensor) -> Tensor:
    recent = step[:, None] - state.last_seen[slots, k] <= state.window[slots][:, None]
    penalty = state.penalty[slots][:, None]
    return torch.where(recent, torch.where(codes > 0, codes / penalty, codes * penalty), codes)


def _truncated(scaled: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """-inf for everything outside of the k best and of the nucleus of mass p (taken among the k best)."""
    ranked = scaled.sort(dim=-1, descending=True).values
    rank = torch.arange(ranked.shape[-1], device=ranked.device)
    ranked = ranked.masked_fill((rank >= top_k[:, None]) & (top_k > 0)[:, None], -torch.inf)
    mass = ranked.softmax(-1, dtype=torch.float64)
    inside = (mass.cumsum(-1) - mass < top_p[:, None]) & ranked.isfinite()
    lowest = torch.where(inside, ranked, torch.inf).amin(-1, keepdim=True)
    return scaled.masked_fill(scaled < lowest, -torch.inf)


def _draw(kept: Tensor, uniform: Tensor) -> Tensor:
    weights = (kept - kept.amax(-1, keepdim=True)).exp().double()
    cumulative = weights.cumsum(-1)
    goal = uniform.double() * cumulative[:, -1]
    # The first index whose cumulative weight exceeds the goal; rounding can put the goal at the very end.
    drawn = torch.searchsorted(cumulative, goal[:, None], right=True)[:, 0]
    last = weights.shape[-1] - 1 - (weights.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(drawn, last)
