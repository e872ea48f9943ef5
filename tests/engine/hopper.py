"""A Hopper GPU's place taken by plain torch: what is put together from kernels of CUDA C++, without their device.

The kernels themselves are held against the same references on a GPU (test_hopper_kernels.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor


def take_hoppers_place(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """From here on plans for Hopper are made, for any type and size, and its kernels are their references.

    -> the names of those that have run.
    """
    from engine.model import plans
    from engine.model.kernels import grouped, wgmma

    monkeypatch.setattr(plans, "is_hopper", lambda device: True)
    monkeypatch.setattr(plans, "unusable", lambda device: None)
    monkeypatch.setattr(wgmma, "fits", lambda weight: True)
    monkeypatch.setattr(grouped, "fits", lambda keys, dtype, queries: True)
    ran: set[str] = set()

    def noted(reference: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any, **options: Any) -> None:
            ran.add(reference.__name__)
            reference(*arguments, **options)

        return run

    monkeypatch.setattr(wgmma, "product", noted(product))
    monkeypatch.setattr(wgmma, "product_add", noted(product_add))
    monkeypatch.setattr(grouped, "attend", noted(attend))
    return ran


def product(
    x: Any, weight: Tensor, out: Tensor, cut: Any, *, eps: float = 0.0, gated: bool = False,
    norms: Tensor | None = None, early: bool = False,
) -> None:  # fmt: skip
    from engine.model.kernels.linear import Normed, linear_reference

    if isinstance(x, Normed):
        x = Normed(x.values, x.squares[: len(out)]).complete(eps)
    elif norms is not None:
        x = x.float() * norms[:, None]
    out.copy_(linear_reference(x, weight, gated=gated))


def product_add(x: Tensor, weight: Tensor, out: Any, cut: Any, *, early: bool = False) -> None:
    from engine.model.kernels.linear import linear_reference

    out.values.add_(linear_reference(x, weight))
    parts = [part.float().square().sum(1) for part in out.values.split(cut.outputs, dim=1)]
    out.squares[: len(x)] = torch.stack(parts, dim=1)


def attend(
    qkv: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, out: Tensor,
    *, splits: int, warps: int, stages: int, norms: Tensor | None = None, early: bool = False,
) -> None:  # fmt: skip
    from engine.model.kernels.attention import attend_reference

    scaled = qkv if norms is None else (qkv.float() * norms[:, None]).to(qkv.dtype)
    out.copy_(attend_reference(scaled, keys, values, rows, positions, cos, sin))
