"""Runs snac's modules on the Triton kernels while training: `accelerate(model)` swaps forward passes, never parameters.

The residual stream stays fp32; the branches between a snake and the sum run in `dtype` (bf16 or fp32).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from snac import SNAC
from snac.layers import NoiseBlock, ResidualUnit, Snake1d
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from demo.train import codec_kernels as kernels
from demo.train.pointwise_kernels import pointwise, pointwise_weight_grad


@dataclass(frozen=True)
class Numbers:
    """How the branches compute: the type they are stored in, and how the matrix units read fp32."""

    dtype: torch.dtype = torch.bfloat16
    precision: str = "tf32"

    @property
    def dot(self) -> dict[str, torch.dtype | str]:
        return {"dot": self.dtype, "precision": self.precision}


class Snake(torch.autograd.Function):
    """x + sin(alpha x)^2 / alpha."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, alpha: Tensor, dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, alpha)
        return kernels.snake_forward(x, alpha, dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, alpha = ctx.saved_tensors
        return *kernels.snake_backward(x, alpha, g.contiguous()), None


class Depthwise(torch.autograd.Function):
    """Convolution with 7 taps a channel, padded to the same length."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, dilation: int, dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight, bias)
        ctx.dilation = dilation
        return kernels.depthwise_forward(x, weight, bias, None, dilation, dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias = ctx.saved_tensors
        g = g.contiguous()
        _, d_weight, d_bias, _ = kernels.depthwise_weight_grad(x, weight, bias, None, g, ctx.dilation)
        return kernels.depthwise_input_grad(g, weight, ctx.dilation, x.dtype), d_weight, d_bias, None, None


class Residual(torch.autograd.Function):
    """x + pointwise(snake(depthwise(snake(x)))), fp32 out."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, alpha: Tensor, taps: Tensor, taps_bias: Tensor, alpha_out: Tensor,
        weight: Tensor, bias: Tensor, dilation: int, numbers: Numbers,
    ) -> Tensor:  # fmt: skip
        x = x.contiguous()
        s = kernels.snake_forward(x, alpha, numbers.dtype)
        h = kernels.depthwise_forward(s, taps, taps_bias, alpha_out, dilation, numbers.dtype)
        ctx.save_for_backward(x, s, h, alpha, taps, taps_bias, alpha_out, weight)
        ctx.dilation, ctx.numbers = dilation, numbers
        return pointwise(h, weight, bias=bias, skip=x, out_dtype=torch.float32, **numbers.dot)

    @staticmethod
    def backward(ctx: FunctionCtx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, s, h, alpha, taps, taps_bias, alpha_out, weight = ctx.saved_tensors
        g, numbers = g.contiguous(), ctx.numbers
        d_weight, d_bias = pointwise_weight_grad(g, h, **numbers.dot)
        dh = pointwise(g, weight, transpose=True, out_dtype=numbers.dtype, **numbers.dot)
        du, d_taps, d_taps_bias, d_alpha_out = kernels.depthwise_weight_grad(
            s, taps, taps_bias, alpha_out, dh, ctx.dilation
        )
        dx, d_alpha = kernels.depthwise_snake_input_grad(du, taps, x, alpha, g, ctx.dilation)
        return dx, d_alpha, d_taps, d_taps_bias, d_alpha_out, d_weight.view_as(weight), d_bias, None, None


class Noise(torch.autograd.Function):
    """x + noise * (W x) for noise [batch, time], fp32 out."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, noise: Tensor, numbers: Numbers) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight, noise)
        ctx.numbers = numbers
        return pointwise(x, weight, skip=x, noise=noise, out_dtype=torch.float32, **numbers.dot)

    @staticmethod
    def backward(ctx: FunctionCtx, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, noise = ctx.saved_tensors
        g, numbers = g.contiguous(), ctx.numbers
        d_weight, _ = pointwise_weight_grad(g, x, noise=noise, **numbers.dot)
        dx = pointwise(g, weight, skip=g, noise=noise, transpose=True, out_dtype=x.dtype, **numbers.dot)
        return dx, d_weight.view_as(weight), None, None


def _residual_unit(unit: ResidualUnit, numbers: Numbers, x: Tensor) -> Tensor:
    first, taps, second, mix = unit.block
    return Residual.apply(
        x, first.alpha, taps.weight, taps.bias, second.alpha, mix.weight, mix.bias, taps.dilation[0], numbers
    )


def _noise_block(block: NoiseBlock, numbers: Numbers, x: Tensor) -> Tensor:
    noise = torch.randn((x.shape[0], x.shape[2]), device=x.device)
    return Noise.apply(x, block.linear.weight, noise, numbers)


def _snake(snake: Snake1d, dtype: torch.dtype, x: Tensor) -> Tensor:
    return Snake.apply(x, snake.alpha, dtype)


def _depthwise(conv: nn.Conv1d, dtype: torch.dtype, x: Tensor) -> Tensor:
    return Depthwise.apply(x, conv.weight, conv.bias, conv.dilation[0], dtype)


def _conv(conv: nn.Conv1d, x: Tensor) -> Tensor:
    return functional.conv1d(x, conv.weight.to(x.dtype), conv.bias.to(x.dtype), conv.stride, conv.padding)


def _conv_transpose(conv: nn.ConvTranspose1d, x: Tensor) -> Tensor:
    weight, bias = conv.weight.to(x.dtype), conv.bias.to(x.dtype)
    return functional.conv_transpose1d(x, weight, bias, conv.stride, conv.padding, conv.output_padding)


def accelerate(model: SNAC, numbers: Numbers) -> SNAC:
    """The same model, on kernels. Its latents and its waveform are made in fp32."""
    fp32_out = {model.encoder.block[-1], model.decoder.model[-3]}
    for module in model.modules():
        dtype = torch.float32 if module in fp32_out else numbers.dtype
        if isinstance(module, ResidualUnit):
            module.forward = partial(_residual_unit, module, numbers)
        elif isinstance(module, NoiseBlock):
            module.forward = partial(_noise_block, module, numbers)
        elif isinstance(module, Snake1d):
            module.forward = partial(_snake, module, dtype)
        elif isinstance(module, nn.ConvTranspose1d):
            module.forward = partial(_conv_transpose, module)
        elif isinstance(module, nn.Conv1d) and module.groups > 1:
            module.forward = partial(_depthwise, module, dtype)
        elif isinstance(module, nn.Conv1d):
            module.forward = partial(_conv, module)
    return model
