"""The codebooks' upkeep: codes learn by gradient; those out of use move onto recent latents.

Counts are the same on every rank (they ride through the gradients' all-reduce); rank 0 draws new codes and sends them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from snac.vq import ResidualVectorQuantize
from torch import Tensor

from demo.train.flat_params import FlatParams

MEMORY = 0.99
DEAD = 0.1  # of the usage each code would have if all were used alike
KEPT_STEPS = 48  # of latents, to draw new codes from

Broadcast = Callable[[Tensor], None]


class Codebooks:
    """`counts` and `latents` are written by each training step; `usage` is a running share a code."""

    def __init__(
        self, quantizer: ResidualVectorQuantize, flat: FlatParams, tokens: list[int], broadcast: Broadcast
    ) -> None:
        self.levels = list(quantizer.quantizers)
        self.flat, self.broadcast = flat, broadcast
        size, dim = quantizer.codebook_size, quantizer.codebook_dim
        self.counts = flat.extra.view(len(self.levels), size)
        self.usage = torch.full_like(self.counts, 1 / size)
        self.learning = self.counts.new_zeros(())
        self.latents = [self.counts.new_zeros(n, dim) for n in tokens]
        self.recent = [self.counts.new_zeros(KEPT_STEPS, n, dim) for n in tokens]

    def record(self, codes: list[Tensor], latents: list[Tensor]) -> None:
        """Part of the captured step."""
        self.counts.zero_()
        for level, (code, latent) in enumerate(zip(codes, latents, strict=True)):
            self.counts[level].scatter_add_(0, code, torch.ones_like(code, dtype=self.counts.dtype))
            self.latents[level].copy_(latent.detach())

    def track(self) -> None:
        """Part of the captured step, after the all-reduce."""
        self.usage.lerp_(self.counts / self.counts.sum(1, keepdim=True), self.learning)

    def remember(self, step: int) -> None:
        for recent, latents in zip(self.recent, self.latents, strict=True):
            recent[step % KEPT_STEPS].copy_(latents)

    def _put(self, level: int, codes: Tensor, changed: Tensor) -> None:
        """New codes [size, dim] where changed [size]: in the weights and in their average."""
        book = self.levels[level].codebook.weight
        packed = torch.cat([codes, changed[:, None].to(codes.dtype)], dim=1)
        self.broadcast(packed)
        codes, changed = packed[:, :-1], packed[:, -1:] > 0
        for flat in (self.flat.data, self.flat.average):
            view = self.flat.view_of(book, flat)
            view.copy_(torch.where(changed, codes, view))
        usage = self.usage[level]
        usage.copy_(torch.where(changed[:, 0], 1 / len(usage), usage))

    @torch.no_grad()
    def restart(self) -> int:
        """Moves dead codes onto random recent latents; returns how many (on this rank)."""
        moved = 0
        for level, recent in enumerate(self.recent):
            usage = self.usage[level]
            dead = usage < DEAD / len(usage)
            pool = recent.flatten(0, 1)
            drawn = pool[torch.randint(len(pool), (len(usage),), device=pool.device)]
            self._put(level, drawn, dead)
            moved += int(dead.sum())
        return moved

    def perplexities(self) -> list[float]:
        share = self.usage / self.usage.sum(1, keepdim=True)
        return (-(share * share.clamp(min=1e-12).log()).sum(1)).exp().tolist()
