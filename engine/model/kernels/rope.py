"""A prompt's queries and keys turned to their positions, its keys and values written into a slot's cache."""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


def turn_and_keep(qkv: Tensor, keys: Tensor, values: Tensor, slot: Tensor, cos: Tensor, sin: Tensor) -> None:
    """qkv [T, (heads + 2 kv_heads) * D]: queries and keys are turned in place; token t is at position t of the slot.

    keys, values [slots, kv_heads, context, D] of one layer; `slot` [1] lies on the device, so that a graph may hold it.
    """
    _, kv_heads, context, dim = keys.shape
    heads = qkv.shape[1] // dim
    _turn[(qkv.shape[0], heads)](
        qkv, keys, values, slot, cos, sin, D=dim, HEADS=heads, KV=kv_heads, CONTEXT=context, num_warps=1
    )


@triton.jit
def _turn(
    qkv, keys, values, slots, cos, sin, D: tl.constexpr, HEADS: tl.constexpr, KV: tl.constexpr, CONTEXT: tl.constexpr
):
    t, head = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots).to(tl.int64)
    h = tl.arange(0, D // 2)
    at = qkv + (t.to(tl.int64) * HEADS + head) * D + h
    a, b = tl.load(at), tl.load(at + D // 2)
    cache = ((slot * KV + head % KV) * CONTEXT + t) * D + h
    if head >= HEADS - KV:
        cache = ((slot * KV + head - (HEADS - KV)) * CONTEXT + t) * D + h
        tl.store(values + cache, a)
        tl.store(values + cache + D // 2, b)
    else:
        c, s = tl.load(cos + t * (D // 2) + h), tl.load(sin + t * (D // 2) + h)
        turned_a = (a.to(tl.float32) * c - b.to(tl.float32) * s).to(a.dtype)
        turned_b = (b.to(tl.float32) * c + a.to(tl.float32) * s).to(a.dtype)
        tl.store(at, turned_a)
        tl.store(at + D // 2, turned_b)
        if head >= HEADS - 2 * KV:
            cache = ((slot * KV + head - (HEADS - 2 * KV)) * CONTEXT + t) * D + h
            tl.store(keys + cache, turned_a)
            tl.store(keys + cache + D // 2, turned_b)
