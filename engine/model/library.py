"""A layer of many rows: the library's matrix products, with kernels for the activation between them or in one's place.

Where the layer's weights have 8 bits the rows are normed and become 8 bits, too, each with a scale of its own (W8A8).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.model.fp8 import Fp8Matrix, Matrix
from engine.model.kernels import wgmma
from engine.model.kernels.linear import Tile, linear
from engine.model.kernels.norm import gate, inverse_rms, rms_norm, to_fp8
from engine.model.weights import LayerWeights

_TILE = Tile(64, 64, 128, 4, 4)  # for what the library cannot multiply


@dataclass(frozen=True)
class Rows8:
    """Rows of 8 bits: float8_e4m3fn [M, K] times float32 [M, 1]."""

    values: Tensor
    scale: Tensor

    @classmethod
    def like(cls, x: Tensor, width: int) -> Rows8:
        """Room for rows of `width` beside those of `x`."""
        values = torch.empty(x.shape[0], width, dtype=torch.float8_e4m3fn, device=x.device)
        return cls(values, torch.empty(x.shape[0], 1, device=x.device))

    @classmethod
    def of(cls, x: Tensor, early: bool = False) -> Rows8:
        """The rows x [M, K], rounded."""
        rows = cls.like(x, x.shape[1])
        to_fp8(x, rows.values, rows.scale, early=early)
        return rows


def project(x: Tensor, layer: LayerWeights, eps: float, out: Tensor, early: bool = False) -> Tensor | None:
    """out [M, N]: queries, keys and values of the rows x [M, hidden].

    -> None, or what each row of `out` is still to be taken times, float32 [M]: rows that become no others are
    multiplied before they are normed.
    """
    rows = _rows(x, layer.qkv, eps, early)
    product(rows, layer.qkv, out)
    # After the product, so that attention, which may be launched early after this, finds all else done.
    return inverse_rms(x, eps, early) if rows is x else None


def finish(
    x: Tensor, attended: Tensor, layer: LayerWeights, eps: float, early: bool = False, cut: wgmma.Cut | None = None
) -> None:
    """What follows attention in a layer, added to x [M, hidden]. `cut`: gate and up by engine.model.kernels.wgmma."""
    rows = Rows8.of(attended, early) if in_8_bits(attended, layer.attn_out) else attended
    _add(x, rows, layer.attn_out)
    if cut:
        inner = x.new_empty(x.shape[0], layer.down.shape[1])
        wgmma.product(x, layer.gate_up, inner, cut, gated=True, norms=inverse_rms(x, eps, early), early=early)
        _add(x, inner, layer.down)
        return
    rows = _rows(x, layer.gate_up, eps, early)
    both = product(rows, layer.gate_up, x.new_empty(x.shape[0], layer.gate_up.shape[0]))
    _add(x, _gated(both, x if rows is x else None, eps, layer.down, early), layer.down)


def in_8_bits(x: Tensor, matrix: Matrix) -> bool:
    """Whether rows x [M, K] become 8 bits, too, for this matrix: then the library wants bf16 and multiples of 16."""
    fits = not matrix.shape[0] % 16 and not matrix.shape[1] % 16
    return isinstance(matrix, Fp8Matrix) and fits and x.dtype == torch.bfloat16


def _rows(x: Tensor, matrix: Matrix, eps: float, early: bool) -> Tensor | Rows8:
    """x itself, or, in 8 bits, what it is normed."""
    if not in_8_bits(x, matrix):
        return x
    rows = Rows8.like(x, x.shape[1])
    rms_norm(x, eps, rows.values, rows.scale, early=early)
    return rows


def _gated(both: Tensor, of: Tensor | None, eps: float, matrix: Matrix, early: bool) -> Tensor | Rows8:
    width = both.shape[1] // 2
    if not in_8_bits(both, matrix):
        out = both.new_empty(both.shape[0], width)
        gate(both, out, None, of, eps, early)
        return out
    rows = Rows8.like(both, width)
    gate(both, rows.values, rows.scale, of, eps, early)
    return rows


def product(rows: Tensor | Rows8, matrix: Matrix, out: Tensor) -> Tensor:
    """out [M, N] = rows [M, K] times matrix^T; -> out.

    Never launched early: attention reads the rows before it waits, see engine.model.kernels.attention.
    """
    if isinstance(matrix, Tensor):
        assert isinstance(rows, Tensor)
        return torch.mm(rows, matrix.t(), out=out)
    if isinstance(rows, Tensor):
        linear(rows, matrix, out, _TILE)
        return out
    return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage] - the stable way to it is torch 2.12's
        rows.values, matrix.values.t(), rows.scale, matrix.scale[None], out_dtype=out.dtype, use_fast_accum=True,
        out=out,
    )  # fmt: skip


def _add(x: Tensor, rows: Tensor | Rows8, matrix: Matrix) -> None:
    """x [M, N] += rows [M, K] times matrix^T."""
    if isinstance(matrix, Tensor):
        assert isinstance(rows, Tensor)
        torch.addmm(x, rows, matrix.t(), out=x)
    else:
        x += product(rows, matrix, torch.empty_like(x))
