"""What stands between library matrix products when a batch is large: norm, gated activation, rows of 8 bits."""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from engine.model.fp8 import LARGEST, SMALLEST
from engine.model.kernels.chain import begin, wait

_LARGEST, _SMALLEST = tl.constexpr(LARGEST), tl.constexpr(SMALLEST)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, out: Tensor, scale: Tensor | None = None, early: bool = False
) -> None:
    """out [M, K] = x over its root mean square, times weight [K]; with `scale` as `to_fp8` leaves it."""
    rows, width = x.shape
    _rms_norm[(rows,)](
        x, weight, out, scale, eps, K=width, BK=triton.next_power_of_2(width), EARLY=early, num_warps=8,
        **({"launch_pdl": True} if early else {}),
    )  # fmt: skip


def gate(x: Tensor, out: Tensor, scale: Tensor | None = None, early: bool = False) -> None:
    """out [M, N] = silu(x[:, :N]) * x[:, N:]; with `scale` as `to_fp8` leaves it."""
    rows, width = out.shape
    block = 2048 if scale is None else triton.next_power_of_2(width)
    _gate[(rows, triton.cdiv(width, block))](
        x, out, scale, N=width, BN=block, EARLY=early, num_warps=8 if scale is None else 16,
        **({"launch_pdl": True} if early else {}),
    )  # fmt: skip


def to_fp8(x: Tensor, out: Tensor, scale: Tensor, early: bool = False) -> None:
    """out float8_e4m3fn [M, K] times scale float32 [M, 1] = x [M, K]: each row's largest becomes 448.

    engine.model.fp8.rows_of_8_bits in a kernel.
    """
    rows, width = x.shape
    _to_fp8[(rows,)](
        x, out, scale, K=width, BK=triton.next_power_of_2(width), EARLY=early, num_warps=8,
        **({"launch_pdl": True} if early else {}),
    )  # fmt: skip


@triton.jit
def _rms_norm(x, weight, out, scales, eps, K: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr):
    begin(EARLY)
    k = tl.arange(0, BK)
    gain = tl.load(weight + k, mask=k < K, other=0.0)
    wait(EARLY)
    at = tl.program_id(0).to(tl.int64) * K + k
    row = tl.load(x + at, mask=k < K, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(row * row, 0) / K + eps)
    normed = (row * scale).to(gain.dtype) * gain
    if scales is not None:
        normed = _fitted(normed, scales)
    tl.store(out + at, normed.to(out.dtype.element_ty), mask=k < K)


@triton.jit
def _gate(x, out, scales, N: tl.constexpr, BN: tl.constexpr, EARLY: tl.constexpr):
    begin(EARLY)
    wait(EARLY)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    row = tl.program_id(0).to(tl.int64)
    a = tl.load(x + row * 2 * N + n, mask=n < N, other=0.0).to(tl.float32)
    b = tl.load(x + row * 2 * N + N + n, mask=n < N, other=0.0).to(tl.float32)
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
