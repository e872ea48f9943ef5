"""SNAC's residual unit in one kernel: depthwise convolution of seven dilated taps, snake, a matrix, plus its input.

The unit's first snake is applied by the kernel before it, once a value; so this one applies the next layer's snake to
what it writes, and writes the plain values too where the next layer adds them. Without snake and residual it is the
decoder's entry: a depthwise convolution and a matrix. The taps are gathered while the product runs over the channels.
"""

# Triton's kernels are Python in form only.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from engine.model.kernels.chain import begin, launched, wait
from engine.model.kernels.columns import Ring, accumulate, locate, snake, snake_reference, whole_matrix
from engine.model.kernels.tiles import Tile, blocks
from engine.model.snac_layers import TAPS


@dataclass(frozen=True)
class UnitWeights:
    """Float32 vectors; the matrix as `matrix_parts` makes it. Without `mid_alpha` there is no residual either."""

    taps: Tensor  # [7, in]
    taps_bias: Tensor  # [in]
    matrix: Tensor  # [parts, out, in]
    bias: Tensor  # [out]
    next_alpha: Tensor  # [out]
    mid_alpha: Tensor | None = None  # [in]


@triton.jit(do_not_specialize=["rows", "offset", "dilation", "source_columns", "target_columns"])
def _unit(
    source, plain, target, plain_target, slots, starts, totals, taps, taps_bias, mid_alpha, matrix, bias, next_alpha,
    rows, offset, dilation, source_columns, target_columns,
    COLUMNS: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr, TAPS: tl.constexpr,
    RESIDUAL: tl.constexpr, KEEP_PLAIN: tl.constexpr, EXACT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    slot, column, end = locate(row, rows, slots, starts, totals, COLUMNS)
    first = column - (TAPS - 1) * dilation
    # The ring is longer than the taps reach: one turn added keeps the remainder from being negative.
    turn = (first + source_columns) % source_columns
    base = slot * source_columns
    product = tl.zeros((BM, BN), tl.float32)
    wait(EARLY)
    for k in range(0, CIN, BK):
        c = k + tl.arange(0, BK)
        y = tl.zeros((BM, BK), tl.float32) + tl.load(taps_bias + c)[None, :]
        for tap in tl.static_range(TAPS):
            at = turn + tap * dilation
            at = tl.where(at >= source_columns, at - source_columns, at)
            position = first + tap * dilation - offset
            heard = (position >= 0) & (position < end)
            x = tl.load(source + (base + at)[:, None] * CIN + c[None, :], mask=heard[:, None], other=0.0)
            y += x.to(tl.float32) * tl.load(taps + tap * CIN + c)[None, :]
        if RESIDUAL:
            alpha = tl.load(mid_alpha + c)[None, :]
            y = snake(y, alpha, 1.0 / (alpha + 1e-9))
        product = accumulate(product, y, matrix + n[None, :] * CIN + c[:, None], COUT * CIN, EXACT)
    product += tl.load(bias + n)[None, :]
    if RESIDUAL:
        at = turn + TAPS // 2 * dilation
        at = tl.where(at >= source_columns, at - source_columns, at)
        position = first + TAPS // 2 * dilation - offset
        heard = (position >= 0) & (position < end)
        x = tl.load(plain + (base + at)[:, None] * CIN + n[None, :], mask=heard[:, None], other=0.0)
        product += x.to(tl.float32)
    place = (slot * target_columns + column % target_columns)[:, None] * COUT + n[None, :]
    live = (row < rows)[:, None]
    if KEEP_PLAIN:
        tl.store(plain_target + place, product.to(target.dtype.element_ty), mask=live)
    alpha = tl.load(next_alpha + n)[None, :]
    bent = snake(product, alpha, 1.0 / (alpha + 1e-9))
    tl.store(target + place, bent.to(target.dtype.element_ty), mask=live)


def unit(
    source: Ring, target: Ring, slots: Tensor, starts: Tensor, totals: Tensor, weights: UnitWeights,
    columns: int, offset: int, dilation: int, tile: Tile, early: bool = False,
) -> None:  # fmt: skip
    """Reads the source ring's last `columns` and their history, writes the target ring's next `columns`.

    `offset`: how far the source's columns stand behind the utterance's positions.
    """
    parts, outputs, inputs = weights.matrix.shape
    rows = slots.shape[0] * columns
    bm, bn, bk = blocks(tile, outputs, inputs)
    mid_alpha = weights.mid_alpha
    # A pointer that a variant does not read is given any tensor.
    _unit[(triton.cdiv(rows, bm), outputs // bn)](
        source.snaked, source.snaked if source.plain is None else source.plain,
        target.snaked, target.snaked if target.plain is None else target.plain,
        slots, starts, totals, weights.taps, weights.taps_bias,
        weights.taps_bias if mid_alpha is None else mid_alpha, weights.matrix, weights.bias, weights.next_alpha,
        rows, offset, dilation, source.snaked.shape[1], target.snaked.shape[1], columns, inputs, outputs, TAPS,
        mid_alpha is not None, target.plain is not None, parts == 2, bm, bn, bk, early,
        num_warps=tile.warps, num_stages=tile.stages, **launched(early),
    )  # fmt: skip


def unit_reference(snaked: Tensor, plain: Tensor, weights: UnitWeights, dilation: int) -> tuple[Tensor, Tensor]:
    """Float32 [B, 6 * dilation + T, in] twice -> plain and snaked [B, T, out]."""
    taps = weights.taps.T[:, None]
    y = F.conv1d(snaked.transpose(1, 2), taps, weights.taps_bias, dilation=dilation, groups=snaked.shape[2])
    y = y.transpose(1, 2)
    if weights.mid_alpha is not None:
        y = snake_reference(y, weights.mid_alpha)
    y = y @ whole_matrix(weights.matrix).T + weights.bias
    if weights.mid_alpha is not None:
        look_ahead = TAPS // 2 * dilation
        y = y + plain[:, look_ahead : look_ahead + y.shape[1]]
    return y, snake_reference(y, weights.next_alpha)
