"""Transposed convolution of kernel 2s and stride s, as one matrix product.

Output s * i + j sees inputs i and i - 1 alone: x[i] @ W[j] + x[i - 1] @ W[s + j]. So with the two inputs side by side,
the s outputs of an input are one row of [.., 2 * in] @ [2 * in, s * out].
"""

# Triton's kernels are Python in form only.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.model.kernels.chain import begin, launched, wait
from engine.model.kernels.columns import accumulate, locate, matrix_parts, whole_matrix
from engine.model.kernels.tiles import Tile, blocks


@dataclass(frozen=True)
class UpsampleWeights:
    """The matrix as `matrix_parts` makes it, the bias in float32."""

    matrix: Tensor  # [parts, stride * out, 2 * in]
    bias: Tensor  # [stride * out]


def upsample_weights(matrix: Tensor, bias: Tensor, stride: int, dtype: torch.dtype) -> UpsampleWeights:
    """From a transposed convolution's [in, out, 2 * stride]."""
    halves = [part.permute(2, 1, 0).flatten(0, 1) for part in matrix.split(stride, dim=2)]
    return UpsampleWeights(matrix_parts(torch.cat(halves, dim=1), dtype), bias.float().repeat(stride))


@triton.jit(do_not_specialize=["rows", "offset", "source_columns"])
def _upsample(
    source, target, slots, starts, totals, matrix, bias, rows, offset, source_columns,
    COLUMNS: tl.constexpr, CIN: tl.constexpr, N: tl.constexpr,
    EXACT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    row = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    slot, column, end = locate(row, rows, slots, starts, totals, COLUMNS)
    product = tl.zeros((BM, BN), tl.float32)
    wait(EARLY)
    for k in range(0, 2 * CIN, BK):
        back = k // CIN  # 0: the column itself, 1: the one before it
        position = column - back - offset
        at = (column - back + source_columns) % source_columns
        # What the compiler does not see of a remainder; without it inputs are loaded one by one.
        c = tl.multiple_of(k % CIN, BK) + tl.arange(0, BK)
        heard = (position >= 0) & (position < end)
        place = source + (slot * source_columns + at)[:, None] * CIN + c[None, :]
        x = tl.load(place, mask=heard[:, None], other=0.0)
        both = k + tl.arange(0, BK)
        product = accumulate(product, x, matrix + n[None, :] * 2 * CIN + both[:, None], N * 2 * CIN, EXACT)
    product += tl.load(bias + n)[None, :]
    stored = product.to(target.dtype.element_ty)
    tl.store(target + row.to(tl.int64)[:, None] * N + n[None, :], stored, mask=(row < rows)[:, None])


def upsample(
    source: Tensor, target: Tensor, slots: Tensor, starts: Tensor, totals: Tensor, weights: UpsampleWeights,
    columns: int, offset: int, tile: Tile, early: bool = False,
) -> None:  # fmt: skip
    """Reads the source ring's last `columns` and the one before; writes rows of a plain [B, columns, stride * out]."""
    parts, outputs, inputs = weights.matrix.shape
    inputs //= 2
    rows = slots.shape[0] * columns
    bm, bn, bk = blocks(tile, outputs, inputs)
    # Programs that share their inputs follow one another, so the inputs are read from memory once.
    _upsample[(outputs // bn, triton.cdiv(rows, bm))](
        source, target, slots, starts, totals, weights.matrix, weights.bias, rows, offset,
        source.shape[1], columns, inputs, outputs, parts == 2, bm, bn, bk, early,
        num_warps=tile.warps, num_stages=tile.stages, **launched(early),
    )  # fmt: skip


def upsample_reference(window: Tensor, weights: UpsampleWeights) -> Tensor:
    """Float32 [B, 1 + T, in] -> [B, T, stride * out]."""
    both = torch.cat([window[:, 1:], window[:, :-1]], dim=2)
    return both @ whole_matrix(weights.matrix).T + weights.bias
