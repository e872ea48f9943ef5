"""A network's parameters, gradients and AdamW state in flat buffers: one all-reduce and one captured step do all.

Every number that changes over time (rate, decay of the average, step) is a device tensor: a CUDA graph can hold `step`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

ALIGN = 64  # elements: each parameter starts on a cache line
BETAS = (0.8, 0.99)
EPSILON = 1e-8
WEIGHT_DECAY = 0.01
CLIP = 2.0  # times the usual gradient norm
NORM_MEMORY = 0.02


class FlatParams:
    """`extra` further numbers ride behind the gradients through the all-reduce (`extra` holds the average)."""

    def __init__(self, parameters: Iterable[nn.Parameter], extra: int = 0) -> None:
        self.parameters = list(parameters)
        self.starts, self.size = self._layout()
        like = self.parameters[0]
        self.data, self.mean, self.square = (like.new_zeros(self.size, requires_grad=False) for _ in range(3))
        self.reduced = like.new_zeros(self.size + extra, requires_grad=False)
        self.grad, self.extra = self.reduced[: self.size], self.reduced[self.size :]
        for parameter, view in zip(self.parameters, self.views(self.data), strict=True):
            view.copy_(parameter.detach())
            parameter.data = view
        self.average = self.data.clone()
        self.grad_views = self.views(self.grad)
        self.rate, self.steps, self.usual_norm, self.norm = (like.new_zeros((), requires_grad=False) for _ in range(4))
        self.average_decay = like.new_ones((), requires_grad=False)

    def _layout(self) -> tuple[list[int], int]:
        starts, end = [], 0
        for parameter in self.parameters:
            starts.append(end)
            end += -(-parameter.numel() // ALIGN) * ALIGN
        return starts, end

    def views(self, flat: Tensor) -> list[Tensor]:
        """A flat buffer cut into the parameters' shapes."""
        return [
            flat[start : start + parameter.numel()].view(parameter.shape)
            for start, parameter in zip(self.starts, self.parameters, strict=True)
        ]

    def view_of(self, parameter: nn.Parameter, flat: Tensor) -> Tensor:
        at = next(i for i, mine in enumerate(self.parameters) if mine is parameter)
        return flat[self.starts[at] : self.starts[at] + parameter.numel()].view(parameter.shape)

    def collect(self, gradients: Sequence[Tensor | None]) -> None:
        """Parameters without a gradient keep the zeros they began with."""
        pairs = [(view, found) for view, found in zip(self.grad_views, gradients, strict=True) if found is not None]
        torch._foreach_copy_(*(list(part) for part in zip(*pairs, strict=True)))

    def _clip(self) -> None:
        """Caps the norm at CLIP times its running average; a gradient that is not finite becomes zero."""
        self.norm.copy_(self.grad.norm())
        finite = self.norm.isfinite()
        norm = torch.where(finite, self.norm, self.usual_norm)
        first = self.usual_norm == 0
        seen = torch.where(first, norm, torch.minimum(norm, 3 * self.usual_norm))
        self.usual_norm.copy_(torch.where(first, norm, self.usual_norm.lerp(seen, NORM_MEMORY)))
        scale = (CLIP * self.usual_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
        self.grad.nan_to_num_(0.0, 0.0, 0.0).mul_(torch.where(finite, scale, 0.0))

    def step(self) -> None:
        """AdamW on everything, then the running average of the weights."""
        self._clip()
        self.steps.add_(1)
        self.mean.lerp_(self.grad, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(self.grad, self.grad, value=1 - BETAS[1])
        size = (self.square / (1 - BETAS[1] ** self.steps)).sqrt_().add_(EPSILON)
        update = (self.mean / (1 - BETAS[0] ** self.steps)).div_(size).add_(self.data, alpha=WEIGHT_DECAY)
        self.data.sub_(update.mul_(self.rate))
        self.average.lerp_(self.data, 1 - self.average_decay)

    def reset(self) -> None:
        """Forgets what warm-up steps left behind (they ran with rate 0)."""
        for tensor in (self.mean, self.square, self.steps, self.usual_norm):
            tensor.zero_()
        self.average.copy_(self.data)
