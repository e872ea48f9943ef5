"""What a card's memory holds. All slots are allocated when the engine starts: their number is checked before that.

Arithmetic on bytes only; `loading.py` asks the card.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.errors import ConfigError
from engine.model.snac_layers import SnacLayer, ring_shapes
from engine.model.weights import LlamaShape

# Graphs, the libraries' workspaces, a prompt's activations, the codec's weights, and what the driver takes for kernels.
RESERVE = 2 * 2**30
# A slot's sampling state, and a row's share of the buffers of a batch: 0.8 MiB of an Orpheus-3B with SNAC-24k.
ROW = 2**20


@dataclass(frozen=True)
class Card:
    """A device once the weights are on it; `total`, `free` and `weights` in bytes, `share` of `total` may be used."""

    name: str
    total: int
    free: int
    weights: int
    share: float

    @property
    def room(self) -> int:
        """Bytes for slots. Whoever uses the card uses up the share."""
        return int(self.share * self.total) - (self.total - self.free) - RESERVE


@dataclass(frozen=True)
class Slot:
    """Bytes that a stream's place takes, used or not: `context` tokens' keys and values, and the codec's history."""

    token: int
    context: int
    codec: int

    @property
    def keys_and_values(self) -> int:
        return self.token * self.context

    @property
    def total(self) -> int:
        return self.keys_and_values + self.codec + ROW


def slot_bytes(shape: LlamaShape, context: int, dtype: torch.dtype) -> int:
    """The keys and values of one slot of `context` tokens, kept as `dtype`."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * context * dtype.itemsize


def codec_bytes(layers: list[SnacLayer], dtype: torch.dtype) -> int:
    """The codec's state of one slot, kept as `dtype`."""
    return sum(columns * channels * copies for columns, channels, copies in ring_shapes(layers)) * dtype.itemsize


def check_room(slots: int, slot: Slot, card: Card) -> str:
    """How the card is used, in a line. ConfigError, with what would fit, when it has no room for so many slots."""
    fit = max(0, card.room) // slot.total
    if slots > fit:
        raise ConfigError("max_concurrency", _refusal(slots, slot, card, fit))
    return (
        f"{card.name}: {_gib(card.free)} of {_gib(card.total)} GiB free beside {_gib(card.weights)} of weights; "
        f"{slots} streams take {_gib(slots * slot.keys_and_values)} for keys and values and up to "
        f"{_gib(slots * slot.codec)} for the codec; {fit} would fit"
    )


def _refusal(slots: int, slot: Slot, card: Card, fit: int) -> str:
    context = (max(0, card.room) // slots - slot.codec - ROW) // slot.token
    ways = [f"max_concurrency to {fit}"] if fit else []
    # Whole pages of 64 tokens; a context under 256 is no setting.
    ways += [f"max_context to {context // 64 * 64}"] if context >= 256 else []
    lower = f"lower {' or '.join(ways)}, " if ways else ""
    used = f"{_gib(card.total - card.free)} in use (weights: {_gib(card.weights)})"
    return (
        f"{slots} streams of {slot.context} tokens need {_gib(slots * slot.total)} GiB, {_gib(max(0, card.room))} are "
        f"left: {card.share:.0%} of {card.name}'s {_gib(card.total)} GiB, less {used} and a reserve of {_gib(RESERVE)}."
        f" {fit} streams fit: {lower}raise memory_share, or free the card"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
