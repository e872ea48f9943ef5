"""Snake and transposed convolution of kernel 2s and stride s, as one matrix product.

Output s * i + j sees inputs i and i - 1 alone: snake(x[i]) @ W[j] + snake(x[i - 1]) @ W[s + j]. So with the two inputs
side by side, the s outputs of an input are one row of [.., 2 * in] @ [2 * in, s * out].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.model.kernels.columns import locate, snake, snake_reference
from engine.model.kernels.tiles import Tile, blocks


@dataclass(frozen=True)
class UpsampleWeights:
    """Float32 vectors; the matrix in the type that is multiplied in."""

    alpha: Tensor  # [in]
    matrix: Tensor  # [2 * in, stride * out]
    bias: Tensor  # [stride * out]


def upsample_weights(alpha: Tensor, matrix: Tensor, bias: Tensor, stride: int, dtype: torch.dtype) -> UpsampleWeights:
    """From a transposed convolution's [in, out, 2 * stride]."""
    halves = [part.permute(0, 2, 1).flatten(1) for part in matrix.split(stride, dim=2)]
    return UpsampleWeights(alpha.float(), torch.cat(halves).to(dtype).contiguous(), bias.float().repeat(stride))


@triton.jit(do_not_specialize=["rows", "offset", "source_columns"])
def _upsample(
    source, target, slots, starts, totals, alpha, matrix, bias, rows, offset, source_columns,
    COLUMNS: tl.constexpr, CIN: tl.constexpr, N: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    slot, column, end = locate(row, rows, slots, starts, totals, COLUMNS)
    product = tl.zeros((BM, BN), tl.float32)
    for k in range(0, 2 * CIN, BK):
        back = k // CIN  # 0: the column itself, 1: the one before it
        position = column - back - offset
        at = (column - back + source_columns) % source_columns
        c = k % CIN + tl.arange(0, BK)
        heard = (position >= 0) & (position < end)
        x = tl.load(
            source + (slot * source_columns + at)[:, None] * CIN + c[None, :], mask=heard[:, None], other=0.0
        )
        a = tl.load(alpha + c)[None, :]
        y = snake(x.to(tl.float32), a, 1.0 / (a + 1e-9))
        w = tl.load(matrix + (k + tl.arange(0, BK))[:, None] * N + n[None, :])
        product = tl.dot(y.to(w.dtype), w, product, input_precision=PRECISION)
    product += tl.load(bias + n)[None, :]
    stored = product.to(target.dtype.element_ty)
    tl.store(target + row.to(tl.int64)[:, None] * N + n[None, :], stored, mask=(row < rows)[:, None])


def upsample(
    source: Tensor, target: Tensor, slots: Tensor, starts: Tensor, totals: Tensor, weights: UpsampleWeights,
    columns: int, offset: int, precision: str, tile: Tile,
) -> None:  # fmt: skip
    """Reads the source ring's last `columns` and the one before; writes rows of a plain [B, columns, stride * out]."""
    inputs, outputs = weights.alpha.shape[0], weights.bias.shape[0]
    rows = slots.shape[0] * columns
    bm, bn, bk = blocks(tile, outputs, inputs)
    # Programs that share their inputs follow one another, so the inputs are read from memory once.
    _upsample[(outputs // bn, triton.cdiv(rows, bm))](
        source, target, slots, starts, totals, weights.alpha, weights.matrix, weights.bias, rows, offset,
        source.shape[1], columns, inputs, outputs, bm, bn, bk, precision,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def upsample_reference(window: Tensor, weights: UpsampleWeights) -> Tensor:
    """Float32 [B, 1 + T, in] -> [B, T, stride * out]."""
    x = snake_reference(window, weights.alpha)
    return torch.cat([x[:, 1:], x[:, :-1]], dim=2) @ weights.matrix.float() + weights.bias
