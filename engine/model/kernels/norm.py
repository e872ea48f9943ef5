"""What stands between library matrix products when a batch is large: RMS norm and the gated activation."""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from engine.model.kernels.chain import begin, wait


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, early: bool = False) -> None:
    """out [M, K] = x over its root mean square, times weight [K]."""
    rows, width = x.shape
    _rms_norm[(rows,)](
        x, weight, out, eps, K=width, BK=triton.next_power_of_2(width), EARLY=early, num_warps=8,
        **({"launch_pdl": True} if early else {}),
    )  # fmt: skip


def gate(x: Tensor, out: Tensor, early: bool = False) -> None:
    """out [M, N] = silu(x[:, :N]) * x[:, N:]."""
    rows, width = out.shape
    _gate[(rows, triton.cdiv(width, 2048))](
        x, out, N=width, BN=2048, EARLY=early, num_warps=8, **({"launch_pdl": True} if early else {})
    )


@triton.jit
def _rms_norm(x, weight, out, eps, K: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr):
    begin(EARLY)
    k = tl.arange(0, BK)
    gain = tl.load(weight + k, mask=k < K, other=0.0)
    wait(EARLY)
    at = tl.program_id(0).to(tl.int64) * K + k
    row = tl.load(x + at, mask=k < K, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(row * row, 0) / K + eps)
    tl.store(out + at, (row * scale).to(gain.dtype) * gain, mask=k < K)


@triton.jit
def _gate(x, out, N: tl.constexpr, BN: tl.constexpr, EARLY: tl.constexpr):
    begin(EARLY)
    wait(EARLY)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    row = tl.program_id(0).to(tl.int64)
    a = tl.load(x + row * 2 * N + n, mask=n < N, other=0.0).to(tl.float32)
    b = tl.load(x + row * 2 * N + N + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out + row * N + n, (a / (1.0 + tl.exp(-a)) * b).to(out.dtype.element_ty), mask=n < N)
