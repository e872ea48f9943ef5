"""A prompt's queries and keys turned to their positions, its keys and values written into a slot's cache."""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

from math import gcd

import triton
import triton.language as tl
from torch import Tensor

from engine.model.kernels.cast import cast
from engine.model.kernels.chain import begin, launched, wait


def turn_and_keep(
    qkv: Tensor, keys: Tensor, values: Tensor, slots: Tensor, cos: Tensor, sin: Tensor,
    norms: Tensor | None = None, early: bool = False,
) -> None:  # fmt: skip
    """qkv [P * T, (heads + 2 kv_heads) * D], prompt after prompt: queries and keys are turned in place.

    Token t of a prompt goes to position t of its slot. keys, values [slots, kv_heads, context, D] of one layer; `slots`
    [P] lies on the device, so that a graph may hold it. With `norms`, float32 [P * T], each row of qkv is taken times
    its own.
    """
    _, kv_heads, context, dim = keys.shape
    heads, prompts = qkv.shape[1] // dim, slots.shape[0]
    each = gcd(heads, 8)  # a program's heads: one alone is too little to start it for
    _turn[(qkv.shape[0] // prompts, heads // each, prompts)](
        qkv, keys, values, slots, cos, sin, norms, EACH=each,
        D=dim, HEADS=heads, KV=kv_heads, CONTEXT=context, EARLY=early, num_warps=1, **launched(early),
    )  # fmt: skip


@triton.jit
def _turn(
    qkv, keys, values, slots, cos, sin, norms, EACH: tl.constexpr,
    D: tl.constexpr, HEADS: tl.constexpr, KV: tl.constexpr, CONTEXT: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    wait(EARLY)
    t, prompt = tl.program_id(0), tl.program_id(2)
    slot = tl.load(slots + prompt).to(tl.int64)
    row = (prompt * tl.num_programs(0) + t).to(tl.int64)
    norm = tl.load(norms + row) if norms is not None else 1.0
    for i in tl.static_range(EACH):
        head = tl.program_id(1) * EACH + i
        turn_head(qkv + (row * HEADS + head) * D, keys, values, slot, t, head, cos, sin, norm, D, HEADS, KV, CONTEXT)


@triton.jit
def turn_head(
    at, keys, values, slot, position, head, cos, sin, norm,
    D: tl.constexpr, HEADS: tl.constexpr, KV: tl.constexpr, CONTEXT: tl.constexpr,
):  # fmt: skip
    """One head of a token, `at` its place in qkv: times `norm`, turned if query or key; kept if key or value."""
    h = tl.arange(0, D // 2)
    a, b = tl.load(at + h), tl.load(at + D // 2 + h)
    own = a.dtype
    kind = keys.dtype.element_ty
    a, b = norm * a.to(tl.float32), norm * b.to(tl.float32)
    # The place of this head's key or value in the cache; a query has none.
    cache = ((slot * KV + (head - (HEADS - 2 * KV)) % KV) * CONTEXT + position) * D + h
    if head >= HEADS - KV:
        tl.store(values + cache, cast(a.to(own), kind))
        tl.store(values + cache + D // 2, cast(b.to(own), kind))
    else:
        c, s = tl.load(cos + position * (D // 2) + h), tl.load(sin + position * (D // 2) + h)
        a, b = a * c - b * s, b * c + a * s
        if head >= HEADS - 2 * KV:
            tl.store(keys + cache, cast(a.to(own), kind))
            tl.store(keys + cache + D // 2, cast(b.to(own), kind))
    tl.store(at + h, a.to(own))
    tl.store(at + D // 2 + h, b.to(own))
