"""Triton kernels of the codec's training: snake and depthwise convolution (7 taps), forward and backward.

Tensors are (batch, channels, time), contiguous, fp32 or bf16; arithmetic is fp32. Per-channel gradients are summed from
per-block partials: the order of execution changes no result. The `*_reference` functions are the same in torch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

TAPS = 7
BLOCKS = (32, 256, 1024)  # few sizes: each is compiled apart


def snake_reference(x: Tensor, alpha: Tensor) -> Tensor:
    return x + torch.sin(alpha * x).pow(2) / (alpha + 1e-9)


def depthwise_reference(x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
    return functional.conv1d(x, weight, bias, padding=3 * dilation, dilation=dilation, groups=x.shape[1])


@triton.jit
def _snake_slope(x, a):
    """d snake / dx and d snake / d alpha at x."""
    r = 1.0 / (a + 1e-9)
    wave = tl.sin(2.0 * a * x)
    square = 0.5 - 0.5 * tl.cos(2.0 * a * x)
    return 1.0 + a * r * wave, r * (x * wave - square * r)


@triton.jit
def _snake_forward(x_ptr, alpha_ptr, out_ptr, C, T, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    t = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = row.to(tl.int64) * T + t
    a = tl.load(alpha_ptr + row % C)
    x = tl.load(x_ptr + at, mask=t < T, other=0.0).to(tl.float32)
    wave = tl.sin(a * x)
    tl.store(out_ptr + at, x + wave * wave / (a + 1e-9), mask=t < T)


@triton.jit
def _snake_backward(x_ptr, alpha_ptr, g_ptr, dx_ptr, partial_ptr, C, T, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    block = tl.program_id(1)
    t = block * BLOCK + tl.arange(0, BLOCK)
    at = row.to(tl.int64) * T + t
    a = tl.load(alpha_ptr + row % C)
    x = tl.load(x_ptr + at, mask=t < T, other=0.0).to(tl.float32)
    g = tl.load(g_ptr + at, mask=t < T, other=0.0).to(tl.float32)
    slope, by_alpha = _snake_slope(x, a)
    tl.store(dx_ptr + at, g * slope, mask=t < T)
    tl.store(partial_ptr + row * tl.num_programs(1) + block, tl.sum(g * by_alpha, axis=0))


@triton.jit
def _depthwise_forward(
    x_ptr, w_ptr, b_ptr, alpha_ptr, out_ptr, C, T, DILATION, SNAKE: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    c = row % C
    t = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start = row.to(tl.int64) * T
    u = tl.zeros([BLOCK], tl.float32) + tl.load(b_ptr + c)
    for k in tl.static_range(7):
        s = t + (k - 3) * DILATION
        u += tl.load(w_ptr + c * 7 + k) * tl.load(x_ptr + start + s, mask=(s >= 0) & (s < T), other=0.0).to(tl.float32)
    if SNAKE:
        a = tl.load(alpha_ptr + c)
        wave = tl.sin(a * u)
        u += wave * wave / (a + 1e-9)
    tl.store(out_ptr + start + t, u, mask=t < T)


@triton.jit
def _depthwise_weight_grad(
    x_ptr, w_ptr, b_ptr, alpha_ptr, g_ptr, du_ptr, partial_ptr, C, T, DILATION,
    SNAKE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial sums [9, rows, blocks]: 7 taps, bias, alpha; with SNAKE also du, the gradient before the snake."""
    row = tl.program_id(0)
    block = tl.program_id(1)
    c = row % C
    t = block * BLOCK + tl.arange(0, BLOCK)
    start = row.to(tl.int64) * T
    stride = tl.num_programs(0) * tl.num_programs(1)
    cell = partial_ptr + row * tl.num_programs(1) + block
    g = tl.load(g_ptr + start + t, mask=t < T, other=0.0).to(tl.float32)
    if SNAKE:
        u = tl.zeros([BLOCK], tl.float32) + tl.load(b_ptr + c)
        for k in tl.static_range(7):
            s = t + (k - 3) * DILATION
            x = tl.load(x_ptr + start + s, mask=(s >= 0) & (s < T), other=0.0).to(tl.float32)
            u += tl.load(w_ptr + c * 7 + k) * x
        slope, by_alpha = _snake_slope(u, tl.load(alpha_ptr + c))
        tl.store(cell + 8 * stride, tl.sum(g * by_alpha, axis=0))
        g = g * slope
        tl.store(du_ptr + start + t, g, mask=t < T)
    tl.store(cell + 7 * stride, tl.sum(g, axis=0))
    for k in tl.static_range(7):
        s = t + (k - 3) * DILATION
        x = tl.load(x_ptr + start + s, mask=(s >= 0) & (s < T), other=0.0).to(tl.float32)
        tl.store(cell + k * stride, tl.sum(g * x, axis=0))


@triton.jit
def _depthwise_input_grad(
    du_ptr, w_ptr, x_ptr, alpha_ptr, skip_ptr, dx_ptr, partial_ptr, C, T, DILATION,
    SNAKE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx = transposed convolution of du; with SNAKE through snake(x) before it, plus the skip connection's gradient."""
    row = tl.program_id(0)
    block = tl.program_id(1)
    c = row % C
    t = block * BLOCK + tl.arange(0, BLOCK)
    start = row.to(tl.int64) * T
    dx = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(7):
        s = t - (k - 3) * DILATION
        du = tl.load(du_ptr + start + s, mask=(s >= 0) & (s < T), other=0.0).to(tl.float32)
        dx += tl.load(w_ptr + c * 7 + k) * du
    if SNAKE:
        x = tl.load(x_ptr + start + t, mask=t < T, other=0.0).to(tl.float32)
        slope, by_alpha = _snake_slope(x, tl.load(alpha_ptr + c))
        by_alpha = tl.where(t < T, dx * by_alpha, 0.0)
        tl.store(partial_ptr + row * tl.num_programs(1) + block, tl.sum(by_alpha, axis=0))
        dx = dx * slope + tl.load(skip_ptr + start + t, mask=t < T, other=0.0).to(tl.float32)
    tl.store(dx_ptr + start + t, dx, mask=t < T)


def _rows(x: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and block of a kernel that gives each (batch, channel) row's blocks of time a program."""
    block = next((size for size in BLOCKS if size >= x.shape[2]), BLOCKS[-1])
    grid = (x.shape[0] * x.shape[1], triton.cdiv(x.shape[2], block))
    return grid, {"BLOCK": block, "num_warps": max(1, block // 256)}


def _by_channel(partial: Tensor, x: Tensor) -> Tensor:
    """[n, rows, blocks] -> [n, channels]."""
    return partial.view(partial.shape[0], x.shape[0], x.shape[1], -1).sum((1, 3))


def snake_forward(x: Tensor, alpha: Tensor, dtype: torch.dtype) -> Tensor:
    out = torch.empty_like(x, dtype=dtype)
    grid, launch = _rows(x)
    _snake_forward[grid](x, alpha, out, x.shape[1], x.shape[2], **launch)
    return out


def snake_backward(x: Tensor, alpha: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    dx = torch.empty_like(x)
    grid, launch = _rows(x)
    partial = x.new_empty((1, *grid), dtype=torch.float32)
    _snake_backward[grid](x, alpha, g, dx, partial, x.shape[1], x.shape[2], **launch)
    return dx, _by_channel(partial, x).view_as(alpha)


def depthwise_forward(
    x: Tensor, weight: Tensor, bias: Tensor, alpha: Tensor | None, dilation: int, dtype: torch.dtype
) -> Tensor:
    """Convolution, then snake if there is an alpha."""
    out = torch.empty_like(x, dtype=dtype)
    grid, launch = _rows(x)
    _depthwise_forward[grid](x, weight, bias, alpha, out, *x.shape[1:], dilation, SNAKE=alpha is not None, **launch)
    return out


def depthwise_weight_grad(
    x: Tensor, weight: Tensor, bias: Tensor, alpha: Tensor | None, g: Tensor, dilation: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """du, the gradient at the convolution's output, and the gradients of weight, bias and alpha."""
    du = g if alpha is None else torch.empty_like(x)
    grid, launch = _rows(x)
    partial = x.new_empty((9 if alpha is not None else 8, *grid), dtype=torch.float32)
    _depthwise_weight_grad[grid](
        x, weight, bias, alpha, g, du, partial, *x.shape[1:], dilation, SNAKE=alpha is not None, **launch
    )
    sums = _by_channel(partial, x)
    d_alpha = sums[8].view_as(alpha) if alpha is not None else None
    return du, sums[:TAPS].t().contiguous().view_as(weight), sums[TAPS], d_alpha


def depthwise_input_grad(du: Tensor, weight: Tensor, dilation: int, dtype: torch.dtype) -> Tensor:
    dx = torch.empty_like(du, dtype=dtype)
    grid, launch = _rows(du)
    _depthwise_input_grad[grid](du, weight, None, None, None, dx, None, *du.shape[1:], dilation, SNAKE=False, **launch)
    return dx


def depthwise_snake_input_grad(
    du: Tensor, weight: Tensor, x: Tensor, alpha: Tensor, skip: Tensor, dilation: int
) -> tuple[Tensor, Tensor]:
    """Gradients of x and alpha for depthwise(snake(x)) beside a skip connection with gradient `skip`."""
    dx = torch.empty_like(x)
    grid, launch = _rows(du)
    partial = x.new_empty((1, *grid), dtype=torch.float32)
    _depthwise_input_grad[grid](du, weight, x, alpha, skip, dx, partial, *x.shape[1:], dilation, SNAKE=True, **launch)
    return dx, _by_channel(partial, x).view_as(alpha)
