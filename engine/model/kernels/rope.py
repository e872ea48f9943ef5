"""A prompt's queries and keys turned to their positions, its keys and values written into a slot's cache."""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from engine.model.kernels.cast import cast


def turn_and_keep(qkv: Tensor, keys: Tensor, values: Tensor, slots: Tensor, cos: Tensor, sin: Tensor) -> None:
    """qkv [P * T, (heads + 2 kv_heads) * D], prompt after prompt: queries and keys are turned in place.

    Token t of a prompt goes to position t of its slot. keys, values [slots, kv_heads, context, D] of one layer; `slots`
    [P] lies on the device, so that a graph may hold it.
    """
    _, kv_heads, context, dim = keys.shape
    heads, prompts = qkv.shape[1] // dim, slots.shape[0]
    _turn[(qkv.shape[0] // prompts, heads, prompts)](
        qkv, keys, values, slots, cos, sin, D=dim, HEADS=heads, KV=kv_heads, CONTEXT=context, num_warps=1
    )


@triton.jit
def _turn(
    qkv, keys, values, slots, cos, sin, D: tl.constexpr, HEADS: tl.constexpr, KV: tl.constexpr, CONTEXT: tl.constexpr
):
    t, head, prompt = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot = tl.load(slots + prompt).to(tl.int64)
    at = qkv + ((prompt * tl.num_programs(0) + t).to(tl.int64) * HEADS + head) * D
    turn_head(at, keys, values, slot, t, head, cos, sin, D, HEADS, KV, CONTEXT)


@triton.jit
def turn_head(
    at, keys, values, slot, position, head, cos, sin,
    D: tl.constexpr, HEADS: tl.constexpr, KV: tl.constexpr, CONTEXT: tl.constexpr,
):  # fmt: skip
    """One head of a token, `at` its place in qkv: queries and keys are turned there, keys and values kept."""
    h = tl.arange(0, D // 2)
    a, b = tl.load(at + h), tl.load(at + D // 2 + h)
    kind = keys.dtype.element_ty
    # The place of this head's key or value in the cache; a query has none.
    cache = ((slot * KV + (head - (HEADS - 2 * KV)) % KV) * CONTEXT + position) * D + h
    if head >= HEADS - KV:
        tl.store(values + cache, cast(a, kind))
        tl.store(values + cache + D // 2, cast(b, kind))
    else:
        c, s = tl.load(cos + position * (D // 2) + h), tl.load(sin + position * (D // 2) + h)
        turned_a = (a.to(tl.float32) * c - b.to(tl.float32) * s).to(a.dtype)
        turned_b = (b.to(tl.float32) * c + a.to(tl.float32) * s).to(a.dtype)
        tl.store(at + h, turned_a)
        tl.store(at + D // 2 + h, turned_b)
        if head >= HEADS - 2 * KV:
            tl.store(keys + cache, cast(turned_a, kind))
            tl.store(keys + cache + D // 2, cast(turned_b, kind))
