"""What stands between library matrix products when a batch is large: norm, gated activation, rows of 8 bits.

Norms here have no weights: those are in the matrices that read them (LlamaWeights.fold_norms).
"""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.model.fp8 import LARGEST, SMALLEST
from engine.model.kernels.chain import begin, launched, wait

_LARGEST, _SMALLEST = tl.constexpr(LARGEST), tl.constexpr(SMALLEST)


def rms_norm(x: Tensor, eps: float, out: Tensor, scale: Tensor | None = None, early: bool = False) -> None:
    """out [M, K] = x over its root mean square; with `scale` as `to_fp8` leaves it."""
    rows, width = x.shape
    _rms_norm[(rows,)](x, out, scale, eps, K=width, EARLY=early, num_warps=8, **launched(early))


def inverse_rms(x: Tensor, eps: float, early: bool = False) -> Tensor:
    """One over the root mean square of each row of x [M, K]: float32 [M]."""
    rows, width = x.shape
    out = torch.empty(rows, device=x.device)
    _inverse_rms[(rows,)](x, out, eps, K=width, EARLY=early, num_warps=4, **launched(early))
    return out


def gate(
    x: Tensor, out: Tensor, scale: Tensor | None = None, of: Tensor | None = None, eps: float = 0.0,
    early: bool = False,
) -> None:  # fmt: skip
    """out [M, N] = silu(x[:, :N]) * x[:, N:]; with `scale` as `to_fp8` leaves it.

    With `of` x [M, 2N] is a product of those rows [M, K], and out what their normed ones would give.
    """
    rows, width = out.shape
    inputs = of.shape[1] if of is not None else 0
    block = 2048 if scale is None else triton.next_power_of_2(width)
    _gate[(rows, triton.cdiv(width, block))](
        x, out, scale, of, eps, N=width, BN=block, K=inputs, EARLY=early, num_warps=8 if scale is None else 16,
        **launched(early),
    )  # fmt: skip


def to_fp8(x: Tensor, out: Tensor, scale: Tensor, early: bool = False) -> None:
    """out float8_e4m3fn [M, K] times scale float32 [M, 1] = x [M, K]: each row's largest becomes 448.

    engine.model.fp8.rows_of_8_bits in a kernel.
    """
    rows, width = x.shape
    _to_fp8[(rows,)](
        x, out, scale, K=width, BK=triton.next_power_of_2(width), EARLY=early, num_warps=8,
        **launched(early),
    )  # fmt: skip


@triton.jit
def _load_row(of, row, K: tl.constexpr):
    """Row `row` of the tensor [M, K] at `of`, and zeros up to a power of two."""
    k = tl.arange(0, triton.next_power_of_2(K))
    return tl.load(of + row.to(tl.int64) * K + k, mask=k < K, other=0.0)


@triton.jit
def _row_scale(values, eps, K: tl.constexpr):
    """One over the root mean square of K numbers."""
    wide = values.to(tl.float32)
    return tl.rsqrt(tl.sum(wide * wide, 0) / K + eps)


@triton.jit
def _inverse_rms(x, out, eps, K: tl.constexpr, EARLY: tl.constexpr):
    begin(EARLY)
    wait(EARLY)
    row = tl.program_id(0)
    tl.store(out + row, _row_scale(_load_row(x, row, K), eps, K))


@triton.jit
def _rms_norm(x, out, scales, eps, K: tl.constexpr, EARLY: tl.constexpr):
    begin(EARLY)
    wait(EARLY)
    row = _load_row(x, tl.program_id(0), K)
    normed = (row.to(tl.float32) * _row_scale(row, eps, K)).to(row.dtype)
    if scales is not None:
        normed = _fitted(normed, scales)
    k = tl.arange(0, triton.next_power_of_2(K))
    tl.store(out + tl.program_id(0).to(tl.int64) * K + k, normed.to(out.dtype.element_ty), mask=k < K)


@triton.jit
def _gate(x, out, scales, of, eps, N: tl.constexpr, BN: tl.constexpr, K: tl.constexpr, EARLY: tl.constexpr):
    begin(EARLY)
    wait(EARLY)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    row = tl.program_id(0).to(tl.int64)
    a = tl.load(x + row * 2 * N + n, mask=n < N, other=0.0).to(tl.float32)
    b = tl.load(x + row * 2 * N + N + n, mask=n < N, other=0.0).to(tl.float32)
    if K > 0:
        scale = _row_scale(_load_row(of, row, K), eps, K)
        a *= scale
        b *= scale
    gated = a / (1.0 + tl.exp(-a)) * b
    if scales is not None:
        gated = _fitted(gated, scales)
    tl.store(out + row * N + n, gated.to(out.dtype.element_ty), mask=n < N)


@triton.jit
def _to_fp8(x, out, scales, K: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr):
    begin(EARLY)
    wait(EARLY)
    k = tl.arange(0, BK)
    at = tl.program_id(0).to(tl.int64) * K + k
    row = tl.load(x + at, mask=k < K, other=0.0)
    tl.store(out + at, _fitted(row, scales).to(out.dtype.element_ty), mask=k < K)


@triton.jit
def _fitted(row, scales):
    """A program's row, float32, divided by the scale that it leaves for it."""
    wide = row.to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(wide), 0), _SMALLEST) / _LARGEST
    tl.store(scales + tl.program_id(0), scale)
    return wide / scale
