"""SNAC's layers as a list of kernel launches over rings: what each reads, writes, and how far it looks ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from engine.model.kernels.chain import launches_early
from engine.model.kernels.columns import Ring, matrix_parts
from engine.model.kernels.snac_noise import add_noise
from engine.model.kernels.snac_output import output
from engine.model.kernels.snac_unit import UnitWeights, unit
from engine.model.kernels.snac_upsample import upsample, upsample_weights
from engine.model.kernels.tiles import pick
from engine.model.snac_layers import LATENTS_PER_FRAME, TAPS, Kind, SnacLayer, ring_shapes


@dataclass(frozen=True)
class Work:
    """What the launches of one frame of a batch read and write."""

    rings: list[Ring]  # the inputs of the layers that keep a history
    scratch: Tensor  # flat, `scratch_columns` values a row
    places: Tensor  # int64 [4, B]: slots, starts and totals in frames, seeds
    samples: Tensor  # float32 [B, 2048]
    pcm: Tensor  # int16 [B, 2048]

    @property
    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Slots, starts and totals."""
        return self.places[0], self.places[1], self.places[2]


Launch = Callable[[Work], None]


@dataclass(frozen=True)
class _Stage:
    """Where a layer stands: its input ring, columns a frame, and how far these stand behind their positions."""

    ring: int
    columns: int
    offset: int = 0

    def ahead(self, look_ahead: int) -> _Stage:
        return replace(self, ring=self.ring + 1, offset=self.offset + look_ahead)

    def upsampled(self, stride: int) -> _Stage:
        return _Stage(self.ring, self.columns * stride, self.offset * stride + stride // 2)


@dataclass(frozen=True)
class _Numbers:
    """The device and the arithmetic of the products."""

    device: torch.device
    dtype: torch.dtype

    @property
    def early(self) -> bool:
        return launches_early(self.device)

    def vector(self, values: Tensor) -> Tensor:
        return values.to(self.device, torch.float32).contiguous()

    def matrix(self, values: Tensor) -> Tensor:
        """A 1x1 convolution's [out, in, 1] as `matrix_parts` of it."""
        return matrix_parts(values[..., 0].to(self.device), self.dtype)

    def taps(self, values: Tensor) -> Tensor:
        """[7, channels], from [channels, 1, 7] or [1, channels, 7]."""
        return self.vector(values.reshape(-1, TAPS).T)


def supports(layers: list[SnacLayer]) -> bool:
    """Whether the layers come in SNAC's order and their channels fill the tensor cores' tiles."""
    order = [layer.kind for layer in layers if layer.kind != Kind.NOISE]
    ups = order.count(Kind.UPSAMPLE)
    expected = [Kind.DEPTHWISE, Kind.POINTWISE, *[Kind.UPSAMPLE, *[Kind.RESIDUAL] * 3] * ups, Kind.SNAKE, Kind.OUTPUT]
    return order == expected and all(layer.channels_in % 16 == 0 for layer in layers)


def make_rings(layers: list[SnacLayer], slots: int, device: torch.device, dtype: torch.dtype) -> list[Ring]:
    """Each holds a frame's columns and the history that the next frame still needs."""
    rings = []
    for columns, channels, copies in ring_shapes(layers):
        snaked = torch.zeros(slots, columns, channels, device=device, dtype=dtype)
        rings.append(Ring(snaked, torch.zeros_like(snaked) if copies == 2 else None))
    return rings


def scratch_columns(layers: list[SnacLayer]) -> int:
    """Values a row that pass from an upsampling to its noise block."""
    columns, most = LATENTS_PER_FRAME, 0
    for layer in layers:
        if layer.kind == Kind.UPSAMPLE:
            columns *= layer.factor
            most = max(most, columns * layer.channels_out)
    return most


def launches(layers: list[SnacLayer], device: torch.device, dtype: torch.dtype, noise: bool) -> list[Launch]:
    """All launches after the codes' lookup, in order. `layers` are supported ones."""
    numbers = _Numbers(device, dtype)
    matrices = {layer.factor: layer.matrix for layer in layers if noise and layer.kind == Kind.NOISE}
    depthwise, pointwise, *rest = [layer for layer in layers if layer.kind != Kind.NOISE]
    stage = _Stage(0, LATENTS_PER_FRAME)
    made = [_entry(depthwise, pointwise, rest[0].alpha, stage, numbers)]
    stage, block = stage.ahead(TAPS // 2), 0
    for layer, after in pairwise(rest):
        if layer.kind == Kind.UPSAMPLE:
            made.append(_upsample(layer, stage, numbers))
            stage = stage.upsampled(layer.factor)
            # Without noise the block is a copy: its product is zero.
            matrix = matrices.get(block, torch.zeros(layer.channels_out, layer.channels_out, 1))
            made.append(_noise(matrix, block, after.alpha, stage, numbers))
            stage, block = stage.ahead(0), block + 1
        elif layer.kind == Kind.RESIDUAL:
            made.append(_residual(layer, after.alpha, stage, numbers))
            stage = stage.ahead(TAPS // 2 * layer.factor)
        else:
            made.append(_output(after, stage, numbers))
    return made


def _entry(depthwise: SnacLayer, pointwise: SnacLayer, alpha: Tensor, stage: _Stage, numbers: _Numbers) -> Launch:
    weights = UnitWeights(
        numbers.taps(depthwise.taps), numbers.vector(depthwise.taps_bias), numbers.matrix(pointwise.matrix),
        numbers.vector(pointwise.bias), numbers.vector(alpha),
    )  # fmt: skip
    return _unit(weights, stage, 1, numbers.early)


def _residual(layer: SnacLayer, alpha: Tensor, stage: _Stage, numbers: _Numbers) -> Launch:
    weights = UnitWeights(
        numbers.taps(layer.taps), numbers.vector(layer.taps_bias), numbers.matrix(layer.matrix),
        numbers.vector(layer.bias), numbers.vector(alpha), numbers.vector(layer.mid_alpha),
    )  # fmt: skip
    return _unit(weights, stage, layer.factor, numbers.early)


def _unit(weights: UnitWeights, stage: _Stage, dilation: int, early: bool) -> Launch:
    def run(work: Work) -> None:
        source, target = work.rings[stage.ring : stage.ring + 2]
        tile = pick("unit", work.places.shape[1] * stage.columns, weights.matrix)
        unit(source, target, *work.rows, weights, stage.columns, stage.offset, dilation, tile, early)

    return run


def _upsample(layer: SnacLayer, stage: _Stage, numbers: _Numbers) -> Launch:
    matrix, bias = layer.matrix.to(numbers.device), layer.bias.to(numbers.device)
    weights = upsample_weights(matrix, bias, layer.factor, numbers.dtype)

    def run(work: Work) -> None:
        tile = pick("upsample", work.places.shape[1] * stage.columns, weights.matrix)
        source = work.rings[stage.ring].snaked
        upsample(source, work.scratch, *work.rows, weights, stage.columns, stage.offset, tile, numbers.early)

    return run


def _noise(values: Tensor, block: int, alpha: Tensor, stage: _Stage, numbers: _Numbers) -> Launch:
    matrix, next_alpha = numbers.matrix(values), numbers.vector(alpha)

    def run(work: Work) -> None:
        tile = pick("noise", work.places.shape[1] * stage.columns, matrix)
        target, seeds = work.rings[stage.ring + 1], work.places[3]
        add_noise(
            work.scratch, target, *work.rows, seeds, matrix, next_alpha, block, stage.columns, stage.offset, tile,
            numbers.early,
        )  # fmt: skip

    return run


def _output(layer: SnacLayer, stage: _Stage, numbers: _Numbers) -> Launch:
    taps, bias = numbers.taps(layer.matrix), numbers.vector(layer.bias)

    def run(work: Work) -> None:
        source = work.rings[stage.ring].snaked
        output(source, work.samples, work.pcm, *work.rows, taps, bias, stage.columns, stage.offset, numbers.early)

    return run
