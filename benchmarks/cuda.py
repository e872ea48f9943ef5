"""What the benchmarks of the GPU's parts share: they need one."""

from __future__ import annotations

import sys

import torch

from benchmarks.report import NOT_HERE


def require_cuda() -> None:
    """Says why nothing can be measured here, and ends with NOT_HERE."""
    if not torch.cuda.is_available():
        print("this benchmark measures CUDA kernels, and torch finds no CUDA device here", file=sys.stderr)
        sys.exit(NOT_HERE)
