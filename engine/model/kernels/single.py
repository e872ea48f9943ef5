"""y = x W^T for one row, without matrix units: a program holds all its weights in registers.

It asks for them before the previous kernel has finished, so that memory stays busy from one product to the next.
"""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportArgumentType=false, reportReturnType=false
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl

from engine.model.kernels.chain import begin, wait

SHRUNK = tl.constexpr(16.0)
"""By how much a normed row is made smaller in float16: weights of 8 bits reach 448, and nothing may overflow."""


@triton.jit
def single(  # noqa: C901 - its branches are taken when it is compiled
    x, squares, weight, scales, out, next_squares, eps,
    N: tl.constexpr, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PARTS: tl.constexpr,
    GATED: tl.constexpr, ADD: tl.constexpr, LATE: tl.constexpr, POLICY: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """As engine.model.kernels.linear, which describes the arguments; K <= 4 BK."""
    if not LATE:
        begin(EARLY)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    # A thread takes eight inputs side by side, as many as it loads of x: with BK = 256 times the warps its weights meet
    # its own part of x, and x need not be exchanged through shared memory.
    k = tl.max_contiguous(tl.arange(0, BK), 8)
    at = weight + tl.minimum(n, N - 1).to(tl.int64)[:, None] * K + k[None, :]
    w0, u0 = _weights(at, 0, k, N, K, BK, GATED, POLICY)
    w1, u1 = _weights(at, 1, k, N, K, BK, GATED, POLICY)
    w2, u2 = _weights(at, 2, k, N, K, BK, GATED, POLICY)
    w3, u3 = _weights(at, 3, k, N, K, BK, GATED, POLICY)
    if scales is not None:
        own = tl.load(scales + tl.minimum(n, N - 1))
        if GATED:
            other = tl.load(scales + N + tl.minimum(n, N - 1))
    before = None
    wait(EARLY)
    if LATE:
        begin(EARLY)
    x0, x1, x2, x3 = _inputs(x, 0, k, K, BK), _inputs(x, 1, k, K, BK), _inputs(x, 2, k, K, BK), _inputs(x, 3, k, K, BK)
    if PARTS > 0:
        p = tl.arange(0, triton.next_power_of_2(PARTS))
        square = tl.load(squares + p, mask=p < PARTS, other=0.0)
    if ADD:
        before = tl.load(out + n, mask=n < N, other=0.0)
    BYTE: tl.constexpr = weight.dtype.element_ty == tl.float8e4nv
    HALF: tl.constexpr = (PARTS > 0) & BYTE & (x.dtype.element_ty == tl.bfloat16)
    if HALF:
        # Of a known size, the row may be float16's: two numbers an instruction, sums of at most four products.
        norm = tl.rsqrt(tl.sum(square, 0) / K + eps) / SHRUNK
        x0, x1, x2, x3 = _halved(x0, norm), _halved(x1, norm), _halved(x2, norm), _halved(x3, norm)
    y = _sums(w0, w1, w2, w3, x0, x1, x2, x3, K, BK, HALF)
    if scales is not None:
        y *= own
    scale = SHRUNK
    if PARTS > 0:
        if not HALF:
            scale = tl.rsqrt(tl.sum(square, 0) / K + eps)
        y *= scale
    if GATED:
        z = _sums(u0, u1, u2, u3, x0, x1, x2, x3, K, BK, HALF)
        if scales is not None:
            z *= other
        if PARTS > 0:
            z *= scale
        y = y / (1.0 + tl.exp(-y)) * z
    _stored(y, n, out, before, next_squares, N, ADD)


@triton.jit
def _sums(w0, w1, w2, w3, x0, x1, x2, x3, K: tl.constexpr, BK: tl.constexpr, HALF: tl.constexpr):
    """The outputs, float32 [BN]. The weights' type is widened here: where they were read they need no wait for that."""
    total = _times(w0, x0, HALF)
    if K > BK:
        total += _times(w1, x1, HALF)
    if K > 2 * BK:
        total += _times(w2, x2, HALF)
    if K > 3 * BK:
        total += _times(w3, x3, HALF)
    return tl.sum(total.to(tl.float32), 1)


@triton.jit
def _halved(x, scale):
    """x times `scale`, float16."""
    return (x.to(tl.float32) * scale).to(tl.float16)


@triton.jit
def _times(w, x, HALF: tl.constexpr):
    """The rows w times x, element by element: float16 with HALF, else float32."""
    return w.to(x.dtype) * x[None, :] if HALF else w.to(tl.float32) * x.to(tl.float32)[None, :]


@triton.jit
def _stored(y, n, out, before, squares, N: tl.constexpr, ADD: tl.constexpr):
    """A program's outputs; with ADD what was there `before` is in them, and the sums' own squares are summed."""
    if ADD:
        y += before.to(tl.float32)
    kept, rounded = n < N, y.to(out.dtype.element_ty)
    tl.store(out + n, rounded, mask=kept)
    if ADD:
        wide = tl.where(kept, rounded.to(tl.float32), 0.0)
        tl.store(squares + tl.program_id(0), tl.sum(wide * wide, 0))


@triton.jit
def _weights(
    at, turn: tl.constexpr, k,
    N: tl.constexpr, K: tl.constexpr, BK: tl.constexpr, GATED: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """The `turn`-th block of the rows, in their own type until they are used; where there is none, the first again."""
    START: tl.constexpr = turn * BK
    if K >= START + BK:
        w = tl.load(at + START, eviction_policy=POLICY)
        u = w
        if GATED:
            u = tl.load(at + N * K + START, eviction_policy=POLICY)
    elif K > START:
        inside = (START + k < K)[None, :]
        w = tl.load(at + START, mask=inside, other=0.0)
        u = w
        if GATED:
            u = tl.load(at + N * K + START, mask=inside, other=0.0)
    else:
        w = tl.zeros(at.shape, dtype=at.dtype.element_ty)
        u = w
    return w, u


@triton.jit
def _inputs(x, turn: tl.constexpr, k, K: tl.constexpr, BK: tl.constexpr):
    """The `turn`-th block of x."""
    START: tl.constexpr = turn * BK
    if K >= START + BK:
        block = tl.load(x + START + k)
    elif K > START:
        block = tl.load(x + START + k, mask=START + k < K, other=0.0)
    else:
        block = tl.zeros(k.shape, dtype=x.dtype.element_ty)
    return block
