"""SNAC's decoder as a flat list of layers with plain tensors, weight norm folded: what both decoders are built from.

Structure: snac 1.2.1 (hubertsiuzdak/snac), layers.py; the 24 kHz model is depthwise and has no attention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from snac import SNAC
from snac.layers import DecoderBlock, NoiseBlock, ResidualUnit, Snake1d
from torch import Tensor, nn
from torch.nn.utils import parametrize

from engine.errors import CheckpointError
from engine.prompt import CODEBOOK_SIZE

TAPS = 7
LATENTS_PER_FRAME = 4


class Kind(IntEnum):
    """Numbers as in kernels/snac.c."""

    DEPTHWISE = 0
    POINTWISE = 1
    UPSAMPLE = 2
    NOISE = 3
    RESIDUAL = 4
    SNAKE = 5
    OUTPUT = 6


@dataclass
class SnacLayer:
    """One layer; the tensors that a kind has not are None.

    `factor`: dilation, stride, or the number of the noise block.
    """

    kind: Kind
    channels_in: int
    channels_out: int
    factor: int = 1
    alpha: Any = None  # [in], the snake before the convolution
    taps: Any = None  # [in, 1, 7]
    taps_bias: Any = None  # [in]
    mid_alpha: Any = None  # [in], the snake before a residual unit's matrix
    matrix: Any = None  # [out, in, 1]; UPSAMPLE [in, out, 2 * stride]; OUTPUT [1, in, 7]
    bias: Any = None  # [out]


def codebook_tables(model: SNAC) -> list[Tensor]:
    """Each codebook's entries after its output projection, [4096, latent]."""
    _fold_weight_norm(model.quantizer)
    tables = []
    quantizers: Any = model.quantizer.quantizers
    for quantizer in quantizers:
        projection = quantizer.out_proj
        tables.append((quantizer.codebook.weight @ projection.weight[..., 0].T + projection.bias).detach())
    return tables


def snac_layers(model: SNAC, source: str) -> list[SnacLayer]:
    """The decoder's layers in order. CheckpointError when it is not built as the 24 kHz model is."""
    rates = list(model.decoder_rates)
    codes = (list(model.vq_strides), model.codebook_size) == ([4, 2, 1], CODEBOOK_SIZE)
    hop = model.hop_length == math.prod(rates) == 512 and all(rate % 2 == 0 for rate in rates)
    if not codes or not hop or model.sampling_rate != 24_000:
        raise CheckpointError(
            f"{source}: not a SNAC 24 kHz codec (sampling_rate 24000, strides 4, 2, 1, 4096 codes, hop 512)"
        )
    _fold_weight_norm(model.decoder)
    layers: list[SnacLayer] = []
    modules: Any = model.decoder.model
    for module in modules:
        if isinstance(module, DecoderBlock):
            layers += _block(list(module.block), sum(layer.kind == Kind.NOISE for layer in layers), source)
        elif not isinstance(module, nn.Tanh):
            layers.append(_single(module, source))
    return layers


def ring_shapes(layers: list[SnacLayer]) -> Iterator[tuple[int, int, int]]:
    """Of each layer that keeps a history: its ring's columns and channels, and how many of them it keeps a slot."""
    columns = LATENTS_PER_FRAME
    for layer in layers:
        if layer.kind in (Kind.DEPTHWISE, Kind.UPSAMPLE, Kind.RESIDUAL, Kind.OUTPUT):
            history = 1 if layer.kind == Kind.UPSAMPLE else (TAPS - 1) * layer.factor
            yield columns + history, layer.channels_in, 2 if layer.kind == Kind.RESIDUAL else 1
        if layer.kind == Kind.UPSAMPLE:
            columns *= layer.factor


def _block(modules: list[Any], noises: int, source: str) -> list[SnacLayer]:
    snake, up, *rest = modules
    linear: Any
    layers = [
        SnacLayer(
            Kind.UPSAMPLE, up.in_channels, up.out_channels, up.stride[0],
            alpha=_flat(snake.alpha), matrix=up.weight.detach(), bias=_flat(up.bias),
        )
    ]  # fmt: skip
    for module in rest:
        if isinstance(module, NoiseBlock):
            linear = module.linear
            layers.append(
                SnacLayer(Kind.NOISE, linear.in_channels, linear.out_channels, noises, matrix=linear.weight.detach())
            )
        elif isinstance(module, ResidualUnit):
            layers.append(_residual(module))
        else:
            raise CheckpointError(f"{source}: the codec's decoder has an unknown layer {type(module).__name__}")
    return layers


def _residual(module: Any) -> SnacLayer:
    snake, depthwise, mid, pointwise = module.block
    return SnacLayer(
        Kind.RESIDUAL, depthwise.in_channels, pointwise.out_channels, depthwise.dilation[0],
        alpha=_flat(snake.alpha), taps=depthwise.weight.detach(), taps_bias=_flat(depthwise.bias),
        mid_alpha=_flat(mid.alpha), matrix=pointwise.weight.detach(), bias=_flat(pointwise.bias),
    )  # fmt: skip


def _single(module: Any, source: str) -> SnacLayer:
    if isinstance(module, Snake1d):
        alpha = _flat(module.alpha)
        return SnacLayer(Kind.SNAKE, alpha.numel(), alpha.numel(), alpha=alpha)
    if isinstance(module, nn.Conv1d):
        cin, cout, weight, bias = module.in_channels, module.out_channels, module.weight.detach(), _flat(module.bias)
        if module.kernel_size == (1,) and module.groups == 1:
            return SnacLayer(Kind.POINTWISE, cin, cout, matrix=weight, bias=bias)
        if module.kernel_size == (TAPS,) and module.groups == cin:
            return SnacLayer(Kind.DEPTHWISE, cin, cout, taps=weight, taps_bias=bias)
        if module.kernel_size == (TAPS,) and cout == 1:
            return SnacLayer(Kind.OUTPUT, cin, cout, matrix=weight, bias=bias)
    raise CheckpointError(f"{source}: the codec's decoder has an unknown layer {type(module).__name__}")


def _flat(tensor: Any) -> Tensor:
    return tensor.detach().reshape(-1)


def _fold_weight_norm(module: nn.Module) -> None:
    for part in module.modules():
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight")
