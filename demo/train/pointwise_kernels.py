"""Triton kernels of the codec's pointwise (1-tap) convolutions with skip connection or noise, and their gradients.

Tensors are (batch, channels, time), contiguous, fp32 or bf16. `dot` is the type the matrix units read, sums are fp32;
`precision` says how they read fp32 ("tf32", "tf32x3" or "ieee").
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

DOT_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


def pointwise_reference(h: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    out = functional.conv1d(h, weight, bias)
    return out if residual is None else residual + out


@triton.jit
def _pointwise(
    h_ptr, w_ptr, b_ptr, skip_ptr, noise_ptr, out_ptr, T, M, K: tl.constexpr, STRIDE_M, STRIDE_K,
    BIAS: tl.constexpr, SKIP: tl.constexpr, NOISE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """out = skip + noise * (W h + b); noise [batch, time] multiplies the product (NOISE 1) or h (NOISE 2)."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    b = tl.program_id(2).to(tl.int64)
    total = tl.zeros([BM, BT], tl.float32)
    for first in range(0, K, BK):
        k = first + tl.arange(0, BK)
        inside_w, inside_h = (m[:, None] < M) & (k[None, :] < K), (k[:, None] < K) & (t[None, :] < T)
        w = tl.load(w_ptr + m[:, None] * STRIDE_M + k[None, :] * STRIDE_K, mask=inside_w, other=0.0)
        h = tl.load(h_ptr + (b * K + k[:, None]) * T + t[None, :], mask=inside_h, other=0.0)
        if NOISE == 2:
            h = h.to(tl.float32) * tl.load(noise_ptr + b * T + t, mask=t < T, other=0.0)[None, :]
        total = tl.dot(w.to(DOT), h.to(DOT), total, input_precision=PRECISION)
    if BIAS:
        total += tl.load(b_ptr + m, mask=m < M, other=0.0)[:, None]
    if NOISE == 1:
        total *= tl.load(noise_ptr + b * T + t, mask=t < T, other=0.0)[None, :]
    inside = (m[:, None] < M) & (t[None, :] < T)
    at = (b * M + m[:, None]) * T + t[None, :]
    if SKIP:
        total += tl.load(skip_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, total, mask=inside)


@triton.jit
def _pointwise_weight_grad(
    g_ptr, h_ptr, noise_ptr, dw_ptr, db_ptr, B, T, M, K,
    TURNS: tl.constexpr, NOISE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """Each of num_programs(2) splits sums its share of (batch, time) tiles into dw[split] and db[split]."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    split = tl.program_id(2)
    tiles = tl.cdiv(T, BT)
    dw = tl.zeros([BM, BK], tl.float32)
    db = tl.zeros([BM], tl.float32)
    for turn in range(TURNS):
        tile = turn * tl.num_programs(2) + split
        b = (tile // tiles).to(tl.int64)
        t = tl.where(tile < B * tiles, (tile % tiles) * BT, T) + tl.arange(0, BT)
        inside_g, inside_h = (m[:, None] < M) & (t[None, :] < T), (k[:, None] < K) & (t[None, :] < T)
        g = tl.load(g_ptr + (b * M + m[:, None]) * T + t[None, :], mask=inside_g, other=0.0).to(tl.float32)
        h = tl.load(h_ptr + (b * K + k[:, None]) * T + t[None, :], mask=inside_h, other=0.0)
        if NOISE:
            g = g * tl.load(noise_ptr + b * T + t, mask=t < T, other=0.0)[None, :]
        db += tl.sum(g, axis=1)
        dw = tl.dot(g.to(DOT), tl.trans(h.to(DOT)), dw, input_precision=PRECISION)
    tl.store(dw_ptr + (split * M + m[:, None]) * K + k[None, :], dw, mask=(m[:, None] < M) & (k[None, :] < K))
    if tl.program_id(1) == 0:
        tl.store(db_ptr + split * M + m, db, mask=m < M)


def _tile(size: int, most: int) -> int:
    return min(most, max(16, triton.next_power_of_2(size)))


def pointwise(
    h: Tensor, weight: Tensor, *, bias: Tensor | None = None, skip: Tensor | None = None, noise: Tensor | None = None,
    transpose: bool = False, out_dtype: torch.dtype, dot: torch.dtype, precision: str = "tf32",
) -> Tensor:  # fmt: skip
    """skip + noise * (W h + b) for W [out, in(, 1)]; transpose: skip + W^T (noise * h), the gradient's direction."""
    rows, columns = weight.shape[:2]
    m, k, strides = (columns, rows, (1, columns)) if transpose else (rows, columns, (columns, 1))
    out = h.new_empty((h.shape[0], m, h.shape[2]), dtype=out_dtype)
    bm, bk, bt = _tile(m, 64), _tile(k, 32 if dot == torch.float32 else 64), 64 if dot == torch.float32 else 128
    _pointwise[(triton.cdiv(h.shape[2], bt), triton.cdiv(m, bm), h.shape[0])](
        h, weight, bias, skip, noise, out, h.shape[2], m, k, *strides, BIAS=bias is not None, SKIP=skip is not None,
        NOISE=0 if noise is None else 1 + transpose, DOT=DOT_TYPES[dot], PRECISION=precision, BM=bm, BK=bk, BT=bt,
    )  # fmt: skip
    return out


def pointwise_weight_grad(
    g: Tensor, h: Tensor, *, noise: Tensor | None = None, dot: torch.dtype, precision: str = "tf32"
) -> tuple[Tensor, Tensor]:
    """Gradients of weight [out, in] and bias [out]."""
    (b, m, t), k = g.shape, h.shape[1]
    bm, bk, bt = _tile(m, 64), _tile(k, 64), 32 if dot == torch.float32 else 64
    tiles = triton.cdiv(m, bm) * triton.cdiv(k, bk)
    turns = triton.cdiv(b * triton.cdiv(t, bt), max(1, 512 // tiles))
    splits = triton.cdiv(b * triton.cdiv(t, bt), turns)
    dw, db = g.new_empty((splits, m, k), dtype=torch.float32), g.new_empty((splits, m), dtype=torch.float32)
    _pointwise_weight_grad[(triton.cdiv(m, bm), triton.cdiv(k, bk), splits)](
        g, h, noise, dw, db, b, t, m, k, TURNS=turns, NOISE=noise is not None, DOT=DOT_TYPES[dot], PRECISION=precision,
        BM=bm, BK=bk, BT=bt,
    )  # fmt: skip
    return dw.sum(0), db.sum(0)
