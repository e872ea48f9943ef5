"""SNAC's noise block: x + normal(seed, block, position) * (x @ W), the normals as `engine.model.rng` draws them.

It writes its sums as they are and with the next layer's snake applied.
"""

# Triton's kernels are Python in form only.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.model.kernels.chain import begin, launched, wait
from engine.model.kernels.columns import Ring, accumulate, locate, snake, snake_reference, whole_matrix
from engine.model.kernels.tiles import Tile, blocks
from engine.model.rng import keyed_bits, keyed_normal


@triton.jit
def mixed_bits(key, counter):
    """`engine.model.rng.keyed_bits`; both uint64."""
    z = key + (counter + 1) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit(do_not_specialize=["rows", "offset", "block", "target_columns"])
def _noise(
    source, target, plain_target, slots, starts, totals, seeds, matrix, next_alpha,
    rows, offset, block, target_columns,
    COLUMNS: tl.constexpr, C: tl.constexpr,
    EXACT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    live = row < rows
    slot, column, _ = locate(row, rows, slots, starts, totals, COLUMNS)
    seed = tl.load(seeds + row // COLUMNS, mask=live, other=0).to(tl.uint64)
    key = mixed_bits(seed, tl.zeros((BM,), tl.uint64) + block)
    bits = mixed_bits(key, (column - offset).to(tl.int64).to(tl.uint64))
    radius = ((bits >> 41).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2^-23
    angle = (bits & 0xFFFFFF).to(tl.float32) * 3.745070282923929e-07  # 2 pi 2^-24
    normal = tl.sqrt(-2.0 * tl.log(radius)) * tl.cos(angle)
    lines = row.to(tl.int64)[:, None] * C
    product = tl.zeros((BM, BN), tl.float32)
    wait(EARLY)
    for k in range(0, C, BK):
        c = k + tl.arange(0, BK)
        x = tl.load(source + lines + c[None, :], mask=live[:, None], other=0.0)
        product = accumulate(product, x, matrix + n[None, :] * C + c[:, None], C * C, EXACT)
    x = tl.load(source + lines + n[None, :], mask=live[:, None], other=0.0).to(tl.float32)
    noisy = x + normal[:, None] * product
    place = (slot * target_columns + column % target_columns)[:, None] * C + n[None, :]
    tl.store(plain_target + place, noisy.to(target.dtype.element_ty), mask=live[:, None])
    alpha = tl.load(next_alpha + n)[None, :]
    bent = snake(noisy, alpha, 1.0 / (alpha + 1e-9))
    tl.store(target + place, bent.to(target.dtype.element_ty), mask=live[:, None])


def add_noise(
    source: Tensor, target: Ring, slots: Tensor, starts: Tensor, totals: Tensor, seeds: Tensor, matrix: Tensor,
    next_alpha: Tensor, block: int, columns: int, offset: int, tile: Tile, early: bool = False,
) -> None:  # fmt: skip
    """Plain rows [B, columns, C] to the target ring's next columns; seeds int64 [B], matrix [parts, C, C]."""
    parts, channels, _ = matrix.shape
    rows = slots.shape[0] * columns
    bm, bn, bk = blocks(tile, channels, channels)
    _noise[(triton.cdiv(rows, bm), channels // bn)](
        source, target.snaked, target.plain, slots, starts, totals, seeds, matrix, next_alpha,
        rows, offset, block, target.snaked.shape[1], columns, channels, parts == 2, bm, bn, bk, early,
        num_warps=tile.warps, num_stages=tile.stages, **launched(early),
    )  # fmt: skip


def noise_reference(
    x: Tensor, matrix: Tensor, seeds: Tensor, block: int, first: Tensor, next_alpha: Tensor
) -> tuple[Tensor, Tensor]:
    """Float32 [B, T, C], whose first rows stand at positions `first` int64 [B] -> plain and snaked."""
    key = keyed_bits(seeds, torch.tensor(block, device=seeds.device))
    normal = keyed_normal(key[:, None], first[:, None] + torch.arange(x.shape[1], device=x.device))
    plain = x + normal[..., None] * (x @ whole_matrix(matrix).T)
    return plain, snake_reference(plain, next_alpha)
