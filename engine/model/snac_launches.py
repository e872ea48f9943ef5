"""SNAC's layers as a list of kernel launches over rings: what each reads, writes, and how far it looks ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.model.kernels.snac_noise import add_noise
from engine.model.kernels.snac_output import output
from engine.model.kernels.snac_unit import UnitWeights, unit
from engine.model.kernels.snac_upsample import upsample, upsample_weights
from engine.model.kernels.tiles import pick
from engine.model.snac_layers import LATENTS_PER_FRAME, TAPS, Kind, SnacLayer


@dataclass(frozen=True)
class Work:
    """What the launches of one frame of a batch read and write."""

    rings: list[Tensor]  # [slots, columns, channels] each, the inputs of the layers that keep a history
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
    def precision(self) -> str:
        # Three TensorFloat-32 products make up a float32 one, to its rounding.
        return "tf32x3" if self.dtype == torch.float32 else "tf32"

    def vector(self, values: Tensor) -> Tensor:
        return values.to(self.device, torch.float32).contiguous()

    def matrix(self, values: Tensor) -> Tensor:
        """A 1x1 convolution's [out, in, 1] as [in, out]."""
        return values[..., 0].T.to(self.device, self.dtype).contiguous()

    def taps(self, values: Tensor) -> Tensor:
        """[7, channels], from [channels, 1, 7] or [1, channels, 7]."""
        return self.vector(values.reshape(-1, TAPS).T)


def supports(layers: list[SnacLayer]) -> bool:
    """Whether the layers come in SNAC's order and their channels fill the tensor cores' tiles."""
    order = [layer.kind for layer in layers if layer.kind != Kind.NOISE]
    ups = order.count(Kind.UPSAMPLE)
    expected = [Kind.DEPTHWISE, Kind.POINTWISE, *[Kind.UPSAMPLE, *[Kind.RESIDUAL] * 3] * ups, Kind.SNAKE, Kind.OUTPUT]
    return order == expected and all(layer.channels_in % 16 == 0 for layer in layers)


def ring_shapes(layers: list[SnacLayer]) -> list[tuple[int, int]]:
    """Columns and channels of each ring: a frame's columns and the history that the next frame still needs."""
    shapes, columns = [], LATENTS_PER_FRAME
    for layer in layers:
        if layer.kind in (Kind.DEPTHWISE, Kind.UPSAMPLE, Kind.RESIDUAL, Kind.OUTPUT):
            history = 1 if layer.kind == Kind.UPSAMPLE else (TAPS - 1) * layer.factor
            shapes.append((columns + history, layer.channels_in))
        if layer.kind == Kind.UPSAMPLE:
            columns *= layer.factor
    return shapes


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
    depthwise, pointwise, *rest = layers
    stage = _Stage(0, LATENTS_PER_FRAME)
    made = [_entry(depthwise, pointwise, stage, numbers)]
    stage = stage.ahead(TAPS // 2)
    for layer, after in _pairs(rest):
        if layer.kind == Kind.UPSAMPLE:
            made.append(_upsample(layer, stage, numbers))
            stage = stage.upsampled(layer.factor)
            made.append(_noise(layer, after if noise and after.kind == Kind.NOISE else None, stage, numbers))
            stage = stage.ahead(0)
        elif layer.kind == Kind.RESIDUAL:
            made.append(_residual(layer, stage, numbers))
            stage = stage.ahead(TAPS // 2 * layer.factor)
        elif layer.kind == Kind.SNAKE:
            made.append(_output(layer, after, stage, numbers))
    return made


def _pairs(layers: list[SnacLayer]) -> Iterator[tuple[SnacLayer, SnacLayer]]:
    return zip(layers, [*layers[1:], layers[-1]], strict=True)


def _entry(depthwise: SnacLayer, pointwise: SnacLayer, stage: _Stage, numbers: _Numbers) -> Launch:
    weights = UnitWeights(
        numbers.taps(depthwise.taps), numbers.vector(depthwise.taps_bias),
        numbers.matrix(pointwise.matrix), numbers.vector(pointwise.bias),
    )  # fmt: skip
    return _unit(weights, stage, 1, numbers)


def _residual(layer: SnacLayer, stage: _Stage, numbers: _Numbers) -> Launch:
    weights = UnitWeights(
        numbers.taps(layer.taps), numbers.vector(layer.taps_bias), numbers.matrix(layer.matrix),
        numbers.vector(layer.bias), numbers.vector(layer.alpha), numbers.vector(layer.mid_alpha),
    )  # fmt: skip
    return _unit(weights, stage, layer.factor, numbers)


def _unit(weights: UnitWeights, stage: _Stage, dilation: int, numbers: _Numbers) -> Launch:
    def run(work: Work) -> None:
        source, target = work.rings[stage.ring : stage.ring + 2]
        tile = pick(work.places.shape[1] * stage.columns, weights.matrix, taps=TAPS)
        unit(source, target, *work.rows, weights, stage.columns, stage.offset, dilation, numbers.precision, tile)

    return run


def _upsample(layer: SnacLayer, stage: _Stage, numbers: _Numbers) -> Launch:
    weights = upsample_weights(
        numbers.vector(layer.alpha), layer.matrix.to(numbers.device), numbers.vector(layer.bias), layer.factor,
        numbers.dtype,
    )  # fmt: skip

    def run(work: Work) -> None:
        tile = pick(work.places.shape[1] * stage.columns, weights.matrix)
        source = work.rings[stage.ring]
        upsample(source, work.scratch, *work.rows, weights, stage.columns, stage.offset, numbers.precision, tile)

    return run


def _noise(up: SnacLayer, layer: SnacLayer | None, stage: _Stage, numbers: _Numbers) -> Launch:
    channels = up.channels_out
    # Without noise the block is a copy: its product is zero.
    values = layer.matrix if layer else torch.zeros(channels, channels, 1)
    matrix, block = numbers.matrix(values), layer.factor if layer else 0

    def run(work: Work) -> None:
        tile = pick(work.places.shape[1] * stage.columns, matrix)
        target = work.rings[stage.ring + 1]
        add_noise(
            work.scratch, target, *work.rows, work.places[3], matrix, block, stage.columns, stage.offset,
            numbers.precision, tile,
        )  # fmt: skip

    return run


def _output(snake: SnacLayer, layer: SnacLayer, stage: _Stage, numbers: _Numbers) -> Launch:
    alpha, taps, bias = numbers.vector(snake.alpha), numbers.taps(layer.matrix), numbers.vector(layer.bias)

    def run(work: Work) -> None:
        output(
            work.rings[stage.ring], work.samples, work.pcm, *work.rows, alpha, taps, bias, stage.columns, stage.offset
        )

    return run
