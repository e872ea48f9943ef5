"""A product of few rows by the kernel that its cut is for: Triton's, or that of CUDA C++."""

from __future__ import annotations

from torch import Tensor

from engine.model.fp8 import Matrix
from engine.model.kernels import wgmma
from engine.model.kernels.linear import Normed, Scratch, Tile, linear, linear_add

Cut = Tile | wgmma.Cut


def multiply(
    x: Normed, weight: Matrix, out: Tensor, cut: Cut, *, eps: float, gated: bool = False,
    scratch: Scratch | None = None, early: bool = False,
) -> None:  # fmt: skip
    """As engine.model.kernels.linear.linear."""
    if isinstance(cut, Tile):
        linear(x, weight, out, cut, eps=eps, gated=gated, scratch=scratch, early=early)
    else:
        wgmma.product(x, weight, out, cut, eps=eps, gated=gated, early=early)


def multiply_add(
    x: Tensor, weight: Matrix, out: Normed, cut: Cut, *, scratch: Scratch | None = None, early: bool = False
) -> None:
    """As engine.model.kernels.linear.linear_add."""
    if isinstance(cut, Tile):
        linear_add(x, weight, out, cut, scratch=scratch, early=early)
    else:
        wgmma.product_add(x, weight, out, cut, early=early)
