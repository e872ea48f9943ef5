"""Rotary position embedding tables, plain and with Llama 3's frequency scaling (transformers' "llama3")."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from engine.errors import CheckpointError


def rope_tables(rope: dict[str, Any], head_dim: int, context: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 [context, head_dim / 2]."""
    frequencies = inverse_frequencies(rope, head_dim)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)
    return angles.cos().to(device).contiguous(), angles.sin().to(device).contiguous()


def inverse_frequencies(rope: dict[str, Any], head_dim: int) -> Tensor:
    """Radians a position for each pair of dimensions, float32 [head_dim / 2]. CheckpointError: unknown scaling."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (float(rope["rope_theta"]) ** exponents)
    kind = rope["rope_type"]
    if kind == "default":
        return frequencies
    if kind != "llama3":
        raise CheckpointError(f"config.json: rope type {kind!r} is not known here (default and llama3 are)")
    missing = {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"} - set(rope)
    if missing:
        raise CheckpointError(f"config.json: rope type llama3 needs {', '.join(sorted(missing))}")
    factor, trained = float(rope["factor"]), float(rope["original_max_position_embeddings"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    wavelength = 2 * math.pi / frequencies
    # Long waves are stretched by `factor`, short ones stay, those between are blended.
    blend = ((trained / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - blend) * frequencies / factor + blend * frequencies
