"""Matrices of 8 bits: float8_e4m3fn values, and for each output row a power of two that they are multiplied with.

The values are floating point: a power of two rounds them 1 to 2 % worse than the row's best scale would, and makes a
dequantised weight exact in bfloat16 and float32, so that every path computes with the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 448.0  # of float8_e4m3fn, which has no infinity
SMALLEST = 1e-12  # a row of zeros has a scale, too


@dataclass(frozen=True)
class Fp8Matrix:
    """A weight [N, K], one byte an element."""

    values: Tensor  # float8_e4m3fn [N, K]
    scale: Tensor  # float32 [N], powers of two

    @classmethod
    def of(cls, matrix: Tensor) -> Fp8Matrix:
        """The nearest values to `matrix` [N, K], of any floating type, on its device."""
        largest = matrix.abs().amax(1).float()
        # The smallest power of two by which the largest value fits; an exponent in float32's bits is exact everywhere.
        exponent = torch.frexp(largest / LARGEST)[1].clamp(min=-100)
        scale = ((exponent + 127) << 23).view(torch.float32)
        return cls((matrix / scale[:, None].to(matrix.dtype)).to(torch.float8_e4m3fn), scale)

    @property
    def shape(self) -> torch.Size:
        """(outputs, inputs)."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scale.nbytes

    def numel(self) -> int:
        """Weights, the scales not counted."""
        return self.values.numel()

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """[N, K], exact in bfloat16 and float32."""
        return self.values.to(dtype) * self.scale[:, None].to(dtype)


def rows_of_8_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values float8_e4m3fn [M, K] and scale float32 [M, 1] of rows [M, K]: each row's largest value becomes 448."""
    scale = x.float().abs().amax(1, keepdim=True).clamp(min=SMALLEST) / LARGEST
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` as `dtype`; what 8 bits cannot hold becomes their largest value."""
    return x.clamp(-LARGEST, LARGEST).to(dtype) if dtype == torch.float8_e4m3fn else x.to(dtype)


Matrix = Tensor | Fp8Matrix
"""A weight as a layer holds it."""


def plain(matrix: Matrix, dtype: torch.dtype) -> Tensor:
    """The matrix as a tensor of `dtype`."""
    return matrix.to(dtype) if isinstance(matrix, Tensor) else matrix.dequantised(dtype)
