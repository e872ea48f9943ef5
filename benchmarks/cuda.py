"""What the benchmarks of the GPU's parts share: they need one, and how they time it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.report import NOT_HERE

WARM_UP = 5


def require_cuda() -> None:
    """Says why nothing can be measured here, and ends with NOT_HERE."""
    if not torch.cuda.is_available():
        print("this benchmark measures CUDA kernels, and torch finds no CUDA device here", file=sys.stderr)
        sys.exit(NOT_HERE)


def medians(action: Callable[[], Any], times: int) -> tuple[float, float]:
    """Milliseconds of `action` on the device, and on the host until it is done there."""
    device, wall = [], []
    for _ in range(WARM_UP + times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        began = time.perf_counter()
        begin.record()
        action()
        end.record()
        end.synchronize()
        wall.append(1000 * (time.perf_counter() - began))
        device.append(begin.elapsed_time(end))
    return statistics.median(device[WARM_UP:]), statistics.median(wall[WARM_UP:])
