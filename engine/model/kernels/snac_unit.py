"""SNAC's residual unit in one kernel: snake, depthwise convolution of seven dilated taps, snake, a matrix, plus its
input. Without snakes and residual it is the decoder's entry: a depthwise convolution and a matrix.

The taps are gathered while the matrix product runs over the channels, so nothing in between touches memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from engine.model.kernels.columns import locate, snake, snake_reference
from engine.model.kernels.tiles import Tile, blocks
from engine.model.snac_layers import TAPS


@dataclass(frozen=True)
class UnitWeights:
    """Float32 vectors; the matrix in the type that is multiplied in. A unit without alphas has no residual either."""

    taps: Tensor  # [7, in]
    taps_bias: Tensor  # [in]
    matrix: Tensor  # [in, out]
    bias: Tensor  # [out]
    alpha: Tensor | None = None  # [in]
    mid_alpha: Tensor | None = None  # [in]


@triton.jit(do_not_specialize=["rows", "offset", "dilation", "source_columns", "target_columns"])
def _unit(
    source, target, slots, starts, totals, taps, taps_bias, alpha, mid_alpha, matrix, bias,
    rows, offset, dilation, source_columns, target_columns,
    COLUMNS: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr, TAPS: tl.constexpr, RESIDUAL: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    slot, column, end = locate(row, rows, slots, starts, totals, COLUMNS)
    first = column - (TAPS - 1) * dilation
    # The ring is longer than the taps reach: one turn added keeps the remainder from being negative.
    turn = (first + source_columns) % source_columns
    base = slot * source_columns
    product = tl.zeros((BM, BN), tl.float32)
    for k in range(0, CIN, BK):
        c = k + tl.arange(0, BK)
        y = tl.zeros((BM, BK), tl.float32) + tl.load(taps_bias + c)[None, :]
        if RESIDUAL:
            a = tl.load(alpha + c)[None, :]
            inverse = 1.0 / (a + 1e-9)
        for tap in tl.static_range(TAPS):
            at = turn + tap * dilation
            at = tl.where(at >= source_columns, at - source_columns, at)
            position = first + tap * dilation - offset
            heard = (position >= 0) & (position < end)
            x = tl.load(source + (base + at)[:, None] * CIN + c[None, :], mask=heard[:, None], other=0.0)
            x = x.to(tl.float32)
            if RESIDUAL:
                x = snake(x, a, inverse)
            y += x * tl.load(taps + tap * CIN + c)[None, :]
        if RESIDUAL:
            m = tl.load(mid_alpha + c)[None, :]
            y = snake(y, m, 1.0 / (m + 1e-9))
        w = tl.load(matrix + c[:, None] * COUT + n[None, :])
        product = tl.dot(y.to(w.dtype), w, product, input_precision=PRECISION)
    product += tl.load(bias + n)[None, :]
    if RESIDUAL:
        at = turn + TAPS // 2 * dilation
        at = tl.where(at >= source_columns, at - source_columns, at)
        position = first + TAPS // 2 * dilation - offset
        heard = (position >= 0) & (position < end)
        x = tl.load(source + (base + at)[:, None] * CIN + n[None, :], mask=heard[:, None], other=0.0)
        product += x.to(tl.float32)
    place = slot * target_columns + column % target_columns
    stored = product.to(target.dtype.element_ty)
    tl.store(target + place[:, None] * COUT + n[None, :], stored, mask=(row < rows)[:, None])


def unit(
    source: Tensor, target: Tensor, slots: Tensor, starts: Tensor, totals: Tensor, weights: UnitWeights,
    columns: int, offset: int, dilation: int, precision: str, tile: Tile,
) -> None:  # fmt: skip
    """Reads the source ring's last `columns` and their history, writes the target ring's next `columns`.

    `offset`: how far the source's columns stand behind the utterance's positions.
    """
    inputs, outputs = weights.matrix.shape
    rows = slots.shape[0] * columns
    bm, bn, bk = blocks(tile, outputs, inputs)
    alpha, mid_alpha = weights.alpha, weights.mid_alpha
    residual = alpha is not None
    _unit[(triton.cdiv(rows, bm), outputs // bn)](
        source, target, slots, starts, totals, weights.taps, weights.taps_bias,
        alpha if residual else weights.taps_bias, mid_alpha if residual else weights.taps_bias,
        weights.matrix, weights.bias, rows, offset, dilation, source.shape[1], target.shape[1],
        columns, inputs, outputs, TAPS, residual, bm, bn, bk, precision,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def unit_reference(window: Tensor, weights: UnitWeights, dilation: int) -> Tensor:
    """Float32 [B, 6 * dilation + T, in] -> [B, T, out]."""
    x = window if weights.alpha is None else snake_reference(window, weights.alpha)
    taps = weights.taps.T[:, None]
    y = F.conv1d(x.transpose(1, 2), taps, weights.taps_bias, dilation=dilation, groups=x.shape[2]).transpose(1, 2)
    if weights.mid_alpha is not None:
        y = snake_reference(y, weights.mid_alpha)
    y = y @ weights.matrix.float() + weights.bias
    if weights.alpha is None:
        return y
    look_ahead = TAPS // 2 * dilation
    return y + window[:, look_ahead : look_ahead + y.shape[1]]
