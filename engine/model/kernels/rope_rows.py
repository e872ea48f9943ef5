"""A decode step's new tokens turned to their positions, their keys and values written into their slots' caches.

For attention that does not do this itself; engine.model.kernels.attention does.
"""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def turn_rows(
    qkv: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """-> int32 [M] each: the slot of every row and how many of its keys there are now; slot 0 and none for no stream.

    qkv [M, (heads + 2 kv_heads) * D] of the slots `rows` [M], -1: no stream; queries and keys are turned in place.
    keys, values [slots, kv_heads, context, D] of one layer; positions [slots]; cos, sin float32 [context, D / 2].
    """
    _, kv_heads, context, dim = keys.shape
    slots, lengths = (torch.empty_like(rows) for _ in range(2))
    _turn_rows[(rows.shape[0], qkv.shape[1] // dim)](
        qkv, keys, values, rows, positions, cos, sin, slots, lengths,
        D=dim, HEADS=qkv.shape[1] // dim, KV=kv_heads, CONTEXT=context, num_warps=1,
    )  # fmt: skip
    return slots, lengths


@triton.jit
def _turn_rows(
    qkv, keys, values, rows, positions, cos, sin, slots, lengths,
    D: tl.constexpr, HEADS: tl.constexpr, KV: tl.constexpr, CONTEXT: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    slot = tl.load(rows + row).to(tl.int64)
    position = tl.load(positions + tl.maximum(slot, 0)).to(tl.int32)
    if head == 0:
        tl.store(slots + row, tl.maximum(slot, 0).to(tl.int32))
        tl.store(lengths + row, tl.where(slot < 0, 0, position + 1))
    if slot < 0:
        return
    h = tl.arange(0, D // 2)
    at = qkv + (row.to(tl.int64) * HEADS + head) * D + h
    a, b = tl.load(at), tl.load(at + D // 2)
    # The place of this head's key or value in the cache; a query has none.
    cache = ((slot * KV + (head - (HEADS - 2 * KV)) % KV) * CONTEXT + position) * D + h
    if head >= HEADS - KV:
        tl.store(values + cache, a)
        tl.store(values + cache + D // 2, b)
    else:
        c, s = tl.load(cos + position * (D // 2) + h), tl.load(sin + position * (D // 2) + h)
        turned_a = (a.to(tl.float32) * c - b.to(tl.float32) * s).to(a.dtype)
        turned_b = (b.to(tl.float32) * c + a.to(tl.float32) * s).to(a.dtype)
        tl.store(at, turned_a)
        tl.store(at + D // 2, turned_b)
        if head >= HEADS - 2 * KV:
            tl.store(keys + cache, turned_a)
            tl.store(keys + cache + D // 2, turned_b)
