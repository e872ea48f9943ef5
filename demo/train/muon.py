"""The optimizer over the flat buffers: Muon for the layers' matrices, AdamW for embeddings and norms, and an EMA.

Every rank runs it whole on the same averaged gradient: at this size the orthogonalisation costs less than sharing it
out would. The learning rate is a tensor on the device, so that a captured CUDA graph follows the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from demo.train.lm_model import Shape, views

# Keller Jordan's quintic: five steps bring singular values near one, which is all Muon needs.
QUINTIC = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class Recipe:
    """The optimizer's constants."""

    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.05
    ema: float = 0.999


def orthogonalise(stack: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, of each of a stack (n, rows, columns) with rows <= columns."""
    a, b, c = QUINTIC
    x = stack / (stack.float().norm(dim=(-2, -1), keepdim=True).to(stack.dtype) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def matrices(flat: Tensor, shape: Shape) -> list[Tensor]:
    """Stacks (layers, rows, columns) of the matrices that are orthogonalised each on its own, wide side last."""
    group = views(flat, shape)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    stacks = [*group["qkv"].split((queries, keys, keys), dim=1), group["out"]]
    stacks += [*group["gate_up"].chunk(2, dim=1), group["down"]]
    return [stack.mT if stack.shape[1] > stack.shape[2] else stack for stack in stacks]


def orthogonal_updates(stacks: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """`orthogonalise` of every stack, those of one shape in one batch."""
    updates: list[Tensor | None] = [None] * len(stacks)
    for size in dict.fromkeys(stack.shape[1:] for stack in stacks):
        same = [index for index, stack in enumerate(stacks) if stack.shape[1:] == size]
        joined = torch.cat([stacks[index].to(dtype) for index in same])
        for index, update in zip(same, orthogonalise(joined).split([len(stacks[i]) for i in same]), strict=True):
            updates[index] = update
    return updates


def adamw_(weights: Tensor, grad: Tensor, first: Tensor, second: Tensor, scalars: Tensor, recipe: Recipe) -> None:
    """One AdamW step in place, without decay; `scalars` holds the learning rate and the number of this step."""
    rate, step = scalars[0], scalars[1]
    wide = grad.float()
    first.lerp_(wide, 1 - recipe.betas[0])
    second.lerp_(wide * wide, 1 - recipe.betas[1])
    tall = (second / (1 - recipe.betas[1] ** step)).sqrt() + recipe.eps
    weights.sub_(rate * (first / (1 - recipe.betas[0] ** step)) / tall)


class Optimizer:
    """Steps the fp32 master weights from a flat gradient and refreshes the copy that the model computes with."""

    def __init__(self, shape: Shape, master: Tensor, compute: Tensor, grad: Tensor, recipe: Recipe) -> None:
        self.shape, self.recipe = shape, recipe
        self.master, self.compute, self.grad = master, compute, grad
        self.scalars = torch.zeros(2, device=master.device)
        self.first = torch.zeros(shape.adam_size, device=master.device)
        self.second = torch.zeros_like(self.first)
        self.momentum = torch.zeros(shape.size - shape.adam_size, device=master.device)
        self.ema = master.clone()

    def set_rate(self, rate: float) -> None:
        """The learning rate from the next step on."""
        self.scalars[0].fill_(rate)

    def reset(self) -> None:
        """Forget all steps: after a warm-up at rate zero."""
        for state in (self.scalars, self.first, self.second, self.momentum):
            state.zero_()
        self.ema.copy_(self.master)

    @torch.no_grad()
    def step(self) -> None:
        """One step. Free of host synchronisation, so that it can be captured."""
        self.scalars[1].add_(1)
        self._decay()
        cut = self.shape.adam_size
        adamw_(self.master[:cut], self.grad[:cut], self.first, self.second, self.scalars, self.recipe)
        self._muon(cut)
        self._average()
        self.compute.copy_(self.master)

    def _decay(self) -> None:
        keep = 1 - self.scalars[0] * self.recipe.weight_decay
        for name, group in views(self.master, self.shape).items():
            if name != "norms":
                group.mul_(keep)

    def _muon(self, cut: int) -> None:
        wide = self.grad[cut:].float()
        self.momentum.lerp_(wide, 1 - self.recipe.momentum)
        ahead = torch.empty(self.shape.size, device=wide.device)
        torch.lerp(wide, self.momentum, self.recipe.momentum, out=ahead[cut:])
        weights = matrices(self.master, self.shape)
        dtype = torch.bfloat16 if wide.is_cuda else torch.float32
        for weight, update in zip(weights, orthogonal_updates(matrices(ahead, self.shape), dtype), strict=True):
            scale = 0.2 * max(weight.shape[1:]) ** 0.5  # gives the update the size of an AdamW update
            weight.sub_(update.float() * (self.scalars[0] * scale))

    def _average(self) -> None:
        # The average follows closely at first, or the random start would stay in it for thousands of steps.
        step = self.scalars[1]
        weight = 1 - torch.minimum((step + 1) / (step + 10), torch.full_like(step, self.recipe.ema))
        self.ema.add_((self.master - self.ema) * weight)
