"""Counter-based random numbers: a value depends on its key and counter alone, so it is the same alone, in any batch,
on any device and in any chunking. The mixing function is SplitMix64 (Steele, Lea, Flood 2014), 64-bit wrap-around.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def keyed_bits(key: Tensor, counter: Tensor) -> Tensor:
    """64 mixed bits as int64 for each (key, counter) pair; both int64 and broadcast against each other."""
    z = key + (counter + 1) * _GAMMA
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def keyed_uniform(key: Tensor, counter: Tensor) -> Tensor:
    """float32 in (0, 1), 23 bits of resolution: with one more, the last half step would round to 1."""
    return (_shift_right(keyed_bits(key, counter), 41).float() + 0.5) * 2.0**-23


def keyed_normal(key: Tensor, counter: Tensor) -> Tensor:
    """Standard normal float32 values (Box-Muller, from the upper and lower halves of one 64-bit draw)."""
    bits = keyed_bits(key, counter)
    radius = (_shift_right(bits, 41).float() + 0.5) * 2.0**-23
    angle = (bits & 0xFFFFFF).float() * (2.0 * math.pi * 2.0**-24)
    return torch.sqrt(-2.0 * torch.log(radius)) * torch.cos(angle)


def _shift_right(bits: Tensor, by: int) -> Tensor:
    # int64's shift is arithmetic; the mask makes it logical.
    return (bits >> by) & ((1 << (64 - by)) - 1)
