"""Attention within short prompts, one program a head: it turns queries and keys and keeps keys and values as well."""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from engine.model.kernels.attention import rotated
from engine.model.kernels.cast import cast
from engine.model.kernels.chain import begin, launched, wait


def attend_prompts(
    qkv: Tensor, keys: Tensor, values: Tensor, slots: Tensor, cos: Tensor, sin: Tensor, out: Tensor,
    early: bool = False,
) -> None:  # fmt: skip
    """out [P * T, heads * D] for qkv [P * T, (heads + 2 kv_heads) * D], prompt after prompt, each from position 0.

    T is at most 64. keys, values [slots, kv_heads, context, D] of one layer get the prompts' in `slots` [P], which lies
    on the device, so that a graph may hold it; cos, sin float32 [context, D / 2].
    """
    _, kv_heads, context, dim = keys.shape
    tokens, heads = qkv.shape[0] // slots.shape[0], out.shape[1] // dim
    _attend_prompts[(heads, slots.shape[0])](
        qkv, keys, values, slots, cos, sin, out, math.log2(math.e) / math.sqrt(dim), T=tokens,
        PAD=max(16, triton.next_power_of_2(tokens)), D=dim, HEADS=heads, KV=kv_heads, CONTEXT=context, EARLY=early,
        num_warps=4 if tokens <= 32 else 8, **launched(early),
    )  # fmt: skip


@triton.jit
def _attend_prompts(
    qkv, keys, values, slots, cos, sin, out, scale, T: tl.constexpr, PAD: tl.constexpr, D: tl.constexpr,
    HEADS: tl.constexpr, KV: tl.constexpr, CONTEXT: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    GROUP: tl.constexpr = HEADS // KV
    head, prompt = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + prompt).to(tl.int64)
    kv_head = head // GROUP
    t, d = tl.arange(0, PAD), tl.arange(0, D)
    inside = (t < T)[:, None]
    position = tl.minimum(t, T - 1)[:, None]
    row = (prompt * T + t).to(tl.int64)[:, None]
    line = qkv + row * ((HEADS + 2 * KV) * D)
    wait(EARLY)
    q = rotated(line + head * D, d, cos, sin, position, inside, 1.0, D)
    k = rotated(line + (HEADS + kv_head) * D, d, cos, sin, position, inside, 1.0, D)
    v = tl.load(line + (HEADS + KV + kv_head) * D + d[None, :], mask=inside, other=0.0)
    if head % GROUP == 0:
        kept = ((slot * KV + kv_head) * CONTEXT + t)[:, None] * D + d[None, :]
        tl.store(keys + kept, cast(k, keys.dtype.element_ty), mask=inside)
        tl.store(values + kept, cast(v, values.dtype.element_ty), mask=inside)
    score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    # A row past the end sees itself, so that it has a maximum; it is not stored.
    score = tl.where(t[None, :] <= t[:, None], score, float("-inf"))
    weights = tl.exp2(score - tl.max(score, 1)[:, None])
    mixed = tl.dot(weights.to(v.dtype), v, input_precision="ieee") / tl.sum(weights, 1)[:, None]
    tl.store(out + row * (HEADS * D) + head * D + d[None, :], mixed.to(v.dtype), mask=inside)
