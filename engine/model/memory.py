"""How many slots a device's memory holds: the keys and values of all of them are allocated when the engine starts."""

from __future__ import annotations

import torch

from engine.errors import ConfigError
from engine.model.weights import LlamaShape

# Of the memory that is free once the weights are loaded: the rest is for the codec, graphs and their scratch.
SHARE = 0.9


def slot_bytes(shape: LlamaShape, context: int, dtype: torch.dtype) -> int:
    """The keys and values of one slot of `context` tokens."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * context * dtype.itemsize


def check_room(slots: int, each: int, free: int) -> None:
    """ConfigError, with what would fit, when `slots` of `each` bytes do not fit `free` bytes."""
    fit = int(SHARE * free) // each
    if slots > fit:
        raise ConfigError(
            "max_concurrency",
            f"{slots} streams need {slots * each / 2**30:.1f} GiB for keys and values, {free / 2**30:.1f} GiB are free "
            f"on the device: {fit} fit; lower max_concurrency or max_context",
        )
