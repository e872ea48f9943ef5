"""Decode attention on Hopper GPUs, in bf16, with heads of 128: grouped.cu on the host's side.

The same as engine.model.kernels.attention, in fewer instructions and, where programs share a head's keys, without a
way through memory.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from engine.model.kernels.nvrtc import Kernel, constants, pointer

DIM = 128
BLOCK = 32  # keys and values that are brought at a time
MOST_QUERIES = 8  # heads that share keys and values

_SOURCE = Path(__file__).with_suffix(".cu").read_text()


def attend(
    qkv: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, out: Tensor,
    *, splits: int, warps: int, stages: int, norms: Tensor | None = None, early: bool = False,
) -> None:  # fmt: skip
    """out [M, heads * 128] for qkv [M, (heads + 2 kv_heads) * 128] of the slots `rows` [M]; -1: no stream.

    As engine.model.kernels.attention.attend; all in bf16 but positions int64 [slots] and cos, sin float32.
    `splits` programs of `warps` warps share a head's keys; a warp reads one block of them while `stages` - 1 are on
    their way.
    """
    _, kv_heads, context, dim = keys.shape
    group = out.shape[1] // (kv_heads * dim)
    assert fits(keys, qkv.dtype, group), (keys.dtype, qkv.dtype, dim, group)
    _kernel(group, kv_heads, splits, warps, stages, qkv.device).launch(
        (kv_heads, splits, rows.shape[0]), early,
        *map(pointer, (qkv, keys, values, rows, positions, cos, sin, out, norms)), ctypes.c_int(context),
        ctypes.c_float(math.log2(math.e) / math.sqrt(dim)), cluster=splits,
    )  # fmt: skip


def fits(keys: Tensor, dtype: torch.dtype, queries: int) -> bool:
    """Whether it attends to such a cache [.., D] with arithmetic in `dtype`, `queries` heads to one of keys."""
    return keys.dtype == dtype == torch.bfloat16 and keys.shape[-1] == DIM and queries <= MOST_QUERIES


@cache
def _kernel(group: int, kv_heads: int, splits: int, warps: int, stages: int, device: torch.device) -> Kernel:
    return Kernel(
        source(group, kv_heads, splits, warps, stages), "attend", 32 * warps, warps * stages * BLOCK * DIM * 4
    )


def source(group: int, kv_heads: int, splits: int, warps: int, stages: int) -> str:
    """CUDA C++ for so many heads of keys, each of which `group` heads read."""
    return constants(GROUP=group, KV=kv_heads, SPLITS=splits, WARPS=warps, STAGES=stages) + _SOURCE
