"""Where a codec kernel's rows stand in the rings of activations, and what the kernels share: snake and product.

A ring [slots, ring columns, channels] keeps the last columns that were pushed into a layer; column c lies at c modulo
the ring's length. Each frame pushes COLUMNS of them, so frame f's first is f * COLUMNS, and its position in the
utterance is c - offset, the layers before it having looked that far ahead. A ring is never cleared: readers take
zero for a position outside of [0, total * COLUMNS), which is the layer's own zero padding in a whole decode and also
hides what an earlier utterance left in the slot.
"""

# Triton's kernels are Python in form only.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Ring:
    """A layer's input [slots, ring columns, channels], with the layer's own snake applied (if it begins with one).

    `plain`: the same before the snake, where the layer adds it to its output.
    """

    snaked: Tensor
    plain: Tensor | None = None


@triton.jit
def locate(rows, count, slots, starts, totals, COLUMNS: tl.constexpr):
    """For each row of a batch x COLUMNS grid: its slot (int64), its column (int32), and where its utterance ends.

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


@triton.jit
def accumulate(product, y, matrix, part, EXACT: tl.constexpr):
    """product + y @ matrix tile; EXACT: float32's precision from three TensorFloat-32 products.

    `matrix` points at the high halves of its values, `part` elements further lie the low ones (see `matrix_parts`).
    """
    w = tl.load(matrix)
    if EXACT:
        high = (y.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        w_low = tl.load(matrix + part)
        # The tensor cores truncate what they sum up: a sum of few terms, added to the rest by the float32 unit.
        terms = tl.dot(y - high, w, input_precision="tf32")
        terms = tl.dot(high, w_low, terms, input_precision="tf32")
        product += tl.dot(high, w, terms, input_precision="tf32")
    else:
        product = tl.dot(y.to(w.dtype), w, product)
    return product


def matrix_parts(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """[out, in] as the kernels read it, [parts, out, in]: float32 is cut in two, at TensorFloat-32's ten bits."""
    if dtype != torch.float32:
        return matrix.to(dtype)[None].contiguous()
    high = (matrix.float().contiguous().view(torch.int32) & -8192).view(torch.float32)
    return torch.stack([high, matrix.float() - high])


def whole_matrix(parts: Tensor) -> Tensor:
    """float32 [out, in] again, for the references."""
    return parts.float().sum(0)


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
