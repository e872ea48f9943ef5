"""Exact streaming SNAC decode in torch, batched over static slots: the pieces together equal a whole-utterance decode.

Every convolution keeps the inputs that its next output still needs, so a call computes new samples only. Output lags
input by `lag` samples, the decoder's look-ahead; `engine.windows` says which samples of a call are real. Positions
before the utterance and past its end are zeroed after every layer, which is what each layer's own zero padding does in
a whole decode. Noise is keyed by (seed, block, absolute position): the same alone, in any batch and in any chunking.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.rng import keyed_bits, keyed_normal
from engine.model.snac_layers import LATENTS_PER_FRAME, TAPS, Kind, SnacLayer
from engine.prompt import CODEBOOK_SLOTS

NO_END = 2**40  # "total frames" of an utterance that still goes on


def lag_of(layers: list[SnacLayer]) -> int:
    """The decoder's look-ahead in samples: how far its output stands behind its input."""
    offset = 0
    for layer in layers:
        if layer.kind == Kind.UPSAMPLE:
            offset = offset * layer.factor + layer.factor // 2
        elif layer.kind in (Kind.DEPTHWISE, Kind.RESIDUAL, Kind.OUTPUT):
            offset += TAPS // 2 * layer.factor
    return offset


@dataclass(frozen=True)
class _Place:
    """Where a batch's activations stand: row b's first column is position start[b] * rate - offset."""

    start: Tensor  # [B] latents
    total: Tensor  # [B] latents
    rate: int = 1
    offset: int = 0

    def positions(self, columns: int) -> Tensor:
        """int64 [B, columns]."""
        return (self.start * self.rate - self.offset)[:, None] + torch.arange(columns, device=self.start.device)

    def mask(self, x: Tensor) -> Tensor:
        """x [B, C, T], zero outside of the utterance."""
        at = self.positions(x.shape[-1])
        return x * ((at >= 0) & (at < self.total[:, None] * self.rate))[:, None]

    def after(self, layer: SnacLayer) -> _Place:
        if layer.kind == Kind.UPSAMPLE:
            stride = layer.factor
            return _Place(self.start, self.total, self.rate * stride, self.offset * stride + stride // 2)
        look_ahead = TAPS // 2 * layer.factor if layer.kind in (Kind.DEPTHWISE, Kind.RESIDUAL, Kind.OUTPUT) else 0
        return _Place(self.start, self.total, self.rate, self.offset + look_ahead)


class TorchSnac:
    """Runs on CPU and CUDA. `noise=False` leaves the noise blocks out (for parity tests)."""

    name = "torch"

    def __init__(
        self, layers: list[SnacLayer], tables: list[Tensor], slots: int, device: torch.device, dtype: torch.dtype,
        noise: bool = True,
    ) -> None:  # fmt: skip
        self.lag = lag_of(layers)
        self._device = device
        self._tables = [table.to(device, dtype) for table in tables]
        self._books = [torch.tensor(slots_of, device=device) for slots_of in CODEBOOK_SLOTS]
        self._layers = [_moved(layer, device, dtype) for layer in layers if noise or layer.kind != Kind.NOISE]
        self._states = [
            [torch.zeros(slots, layer.channels_in, rows, device=device, dtype=dtype) for rows in _history(layer)]
            for layer in self._layers
        ]

    def reset(self, slot: int) -> None:
        """A new utterance begins in this slot."""
        for states in self._states:
            for state in states:
                state[slot] = 0

    @torch.inference_mode()
    def decode(self, slots: list[int], codes: Tensor, start: list[int], total: list[int], seeds: list[int]) -> Tensor:
        """Pushes codes int [B, frames, 7] that follow `start` earlier frames; -> float32 [B, frames * 2048].

        `total` is the utterance's frame count, NO_END while it is unknown; frames past it push the rest out.
        """
        rows, first, last, seed = (torch.tensor(v, device=self._device) for v in (slots, start, total, seeds))
        place = _Place(first * LATENTS_PER_FRAME, last * LATENTS_PER_FRAME)
        x = place.mask(self._latents(codes.long()))
        for layer, states in zip(self._layers, self._states, strict=True):
            x = self._apply(layer, x, states, rows, place, seed)
            place = place.after(layer)
            if layer.kind != Kind.OUTPUT:
                x = place.mask(x)
        return torch.tanh(x[:, 0]).float()

    def _latents(self, codes: Tensor) -> Tensor:
        total = torch.zeros((), device=codes.device, dtype=self._tables[0].dtype)
        for table, book in zip(self._tables, self._books, strict=True):
            entries = table[codes[:, :, book]].flatten(1, 2)  # [B, frames * len(book), latent]
            total = total + entries.repeat_interleave(LATENTS_PER_FRAME // len(book), dim=1)
        return total.transpose(1, 2)

    def _apply(
        self, layer: SnacLayer, x: Tensor, states: list[Tensor], rows: Tensor, place: _Place, seed: Tensor
    ) -> Tensor:
        match layer.kind:
            case Kind.DEPTHWISE:
                return F.conv1d(
                    _with_history(states[0], rows, x), layer.taps, layer.taps_bias, groups=layer.channels_in
                )
            case Kind.POINTWISE:
                return F.conv1d(x, layer.matrix, layer.bias)
            case Kind.SNAKE:
                return _snake(x, layer.alpha)
            case Kind.UPSAMPLE:
                wide = _with_history(states[0], rows, _snake(x, layer.alpha))
                y = F.conv_transpose1d(wide, layer.matrix, layer.bias, stride=layer.factor)
                return y[..., layer.factor : layer.factor * (x.shape[-1] + 1)]
            case Kind.NOISE:
                key = keyed_bits(seed, torch.tensor(layer.factor, device=seed.device))
                normal = keyed_normal(key[:, None], place.positions(x.shape[-1]))
                return x + normal[:, None].to(x.dtype) * F.conv1d(x, layer.matrix)
            case Kind.RESIDUAL:
                wide = _with_history(states[0], rows, _snake(x, layer.alpha))
                y = F.conv1d(wide, layer.taps, layer.taps_bias, dilation=layer.factor, groups=layer.channels_in)
                delayed = _with_history(states[1], rows, x)[..., : x.shape[-1]]
                return delayed + F.conv1d(_snake(y, layer.mid_alpha), layer.matrix, layer.bias)
            case Kind.OUTPUT:
                return F.conv1d(_with_history(states[0], rows, x), layer.matrix, layer.bias)


def _history(layer: SnacLayer) -> tuple[int, ...]:
    """Columns of past input that a layer keeps."""
    match layer.kind:
        case Kind.DEPTHWISE | Kind.OUTPUT:
            return (TAPS - 1,)
        case Kind.UPSAMPLE:
            return (1,)
        case Kind.RESIDUAL:
            return ((TAPS - 1) * layer.factor, TAPS // 2 * layer.factor)
        case _:
            return ()


def _with_history(state: Tensor, rows: Tensor, x: Tensor) -> Tensor:
    wide = torch.cat([state[rows], x], dim=-1)
    state[rows] = wide[..., x.shape[-1] :]
    return wide


def _snake(x: Tensor, alpha: Tensor | None) -> Tensor:
    assert alpha is not None
    alpha = alpha[:, None]
    return x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).square()


def _moved(layer: SnacLayer, device: torch.device, dtype: torch.dtype) -> SnacLayer:
    fields: dict[str, Any] = {
        name: v.to(device, dtype) if isinstance(v, Tensor) else v for name, v in vars(layer).items()
    }
    return SnacLayer(**fields)
