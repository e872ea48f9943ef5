"""Where a codec kernel's rows stand: the rings that hold each layer's activations, and the snake between layers.

A ring [slots, ring columns, channels] keeps the last columns that were pushed into a layer; column c lies at c modulo
the ring's length. Each frame pushes COLUMNS of them, so frame f's first is f * COLUMNS, and its position in the
utterance is c - offset, the layers before it having looked that far ahead. A ring is never cleared: readers take
zero for a position outside of [0, total * COLUMNS), which is the layer's own zero padding in a whole decode and also
hides what an earlier utterance left in the slot.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def locate(rows, count, slots, starts, totals, COLUMNS: tl.constexpr):
    """For each row of a batch x COLUMNS grid: its slot (int64), its column (int32), and the end of its utterance's positions.

    A row past `count` has an end of 0: nothing is read for it.
    """
    live = rows < count
    batch = rows // COLUMNS
    slot = tl.load(slots + batch, mask=live, other=0)
    column = tl.load(starts + batch, mask=live, other=0).to(tl.int32) * COLUMNS + rows % COLUMNS
    end = tl.load(totals + batch, mask=live, other=0).to(tl.int32) * COLUMNS
    return slot, column, end


@triton.jit
def snake(x, alpha, inverse):
    """x + sin(alpha x)^2 / alpha. sin^2 has the period pi: reduce to +-pi/2, then a polynomial, exact to 1e-7."""
    y = alpha * x
    # Adding and subtracting 1.5 * 2^23 rounds to an integer; pi in three parts of few bits, so k * part is exact.
    k = (y * 0.3183098861837907 + 12582912.0) - 12582912.0
    r = y - k * 3.140625
    r = r - k * 9.670257568359375e-04
    r = r - k * 6.278329571e-07
    u = r * r
    p = 2.600054751e-06 * u - 1.980661518e-04
    p = p * u + 8.333017291e-03
    p = p * u - 1.666665710e-01
    s = r + r * u * p
    return x + inverse * (s * s)


def read_columns(
    ring: Tensor, slots: Tensor, starts: Tensor, totals: Tensor, columns: int, history: int, offset: int
) -> Tensor:
    """The torch reference of a kernel's reads: float32 [B, history + columns, channels], zero outside of [0, total)."""
    wanted = starts[:, None] * columns + torch.arange(-history, columns, device=ring.device)
    position = wanted - offset
    kept = (position >= 0) & (position < totals[:, None] * columns)
    values = ring[slots.long()[:, None], wanted % ring.shape[1]].float()
    return torch.where(kept[..., None], values, 0.0)


def snake_reference(x: Tensor, alpha: Tensor) -> Tensor:
    """x [..., channels]."""
    return x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).square()
