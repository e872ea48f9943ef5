"""What the benchmarks of the GPU's parts share: they need one."""

from __future__ import annotations

import torch


def require_cuda() -> None:
    """SystemExit that says why nothing can be measured here."""
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark measures CUDA kernels, and torch finds no CUDA device here")
