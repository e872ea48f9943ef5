"""Decode attention over static slots: one new token a row, keys and values split among programs.

The kernel turns query and key (RoPE), writes the new key and value, attends to the slot's cache up to the row's
position, and the last program of a head merges what all found. Lengths are read on the device; the grid is fixed.
"""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.model.fp8 import saturated
from engine.model.kernels.cast import cast, halves
from engine.model.kernels.chain import begin, launched, wait
from engine.model.kernels.linear import Scratch
from engine.model.kernels.norm import load_row, row_scale


def attend(
    qkv: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, out: Tensor,
    scratch: Scratch, *, of: Tensor | None = None, eps: float = 0.0, splits: int, block: int = 64, warps: int = 4,
    stages: int = 2, policy: str = "", ahead: bool = True, early: bool = False,
) -> None:  # fmt: skip
    """out [M, heads * D] for qkv [M, (heads + 2 kv_heads) * D] of the slots `rows` [M]; -1: no stream.

    keys, values [slots, kv_heads, context, D] of one layer, of qkv's type or float8_e4m3fn; positions [slots]; cos, sin
    float32 [context, D / 2]. With `of` qkv is a product of those rows [M, K], and taken for what their normed ones
    would give. `ahead`: the first block is asked for before the last kernel has finished, into registers.
    """
    _, kv_heads, context, dim = keys.shape
    group = out.shape[1] // (kv_heads * dim)
    # A row's heads one after another: programs that run at once read neighbouring memory.
    _attend[(kv_heads, rows.shape[0], splits)](
        qkv, keys, values, rows, positions, cos, sin, out, scratch.partial, scratch.arrived,
        math.log2(math.e) / math.sqrt(dim), of, eps, K=of.shape[1] if of is not None else 0,
        CONTEXT=context, D=dim, KV=kv_heads, GROUP=group, PAD=16, BLOCK=block, SPLITS=splits, POLICY=policy,
        AHEAD=ahead, EARLY=early, num_warps=warps, num_stages=stages, **launched(early),
    )  # fmt: skip


def scratch_sizes(rows: int, heads: int, dim: int, splits: int) -> tuple[int, int]:
    """Partial results and counters that `attend` needs."""
    return rows * heads * splits * (dim + 2), rows * heads


def attend_reference(
    qkv: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """The same in torch, row by row, keys and values written in place."""
    _, kv_heads, _, dim = keys.shape
    heads = qkv.shape[1] // dim - 2 * kv_heads
    out = qkv.new_zeros(qkv.shape[0], heads * dim)
    for i, slot in enumerate(rows.tolist()):
        if slot < 0:
            continue
        at = int(positions[slot])
        parts = qkv[i].view(-1, dim)
        turned = _turned(parts[: heads + kv_heads], cos[at], sin[at])
        for cache, new in ((keys, turned[heads:]), (values, parts[heads + kv_heads :])):
            cache[slot, :, at] = saturated(new, cache.dtype)
        k, v = (t[slot, :, : at + 1].float().repeat_interleave(heads // kv_heads, 0) for t in (keys, values))
        weights = (torch.einsum("hd,htd->ht", turned[:heads].float(), k) / math.sqrt(dim)).softmax(-1)
        out[i] = torch.einsum("ht,htd->hd", weights, v).flatten().to(out.dtype)
    return out


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


@triton.jit
def rotated(at, d, cos, sin, position, valid, norm, D: tl.constexpr):
    """The heads at pointers `at` [R, 1], times `norm`, turned to `position`, of all or [R, 1]: [R, D] in their type."""
    half = (d % (D // 2))[None, :]
    own = tl.load(at + d[None, :], mask=valid, other=0.0)
    other = tl.load(at + ((d + D // 2) % D)[None, :], mask=valid, other=0.0).to(tl.float32)
    c = tl.load(cos + position * (D // 2) + half)
    s = tl.load(sin + position * (D // 2) + half)
    s = tl.where((d < D // 2)[None, :], -s, s)
    return (norm * (own.to(tl.float32) * c + other * s)).to(own.dtype)


@triton.jit
def _attend(
    qkv, keys, values, rows, positions, cos, sin, out, partial, arrived, scale, of, eps, K: tl.constexpr,
    CONTEXT: tl.constexpr, D: tl.constexpr, KV: tl.constexpr, GROUP: tl.constexpr, PAD: tl.constexpr,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr, POLICY: tl.constexpr, AHEAD: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    kv_head, row, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    # The product that makes q, k and v lets this kernel in when all before it is written: only they are waited for.
    slot = tl.load(rows + row).to(tl.int64)
    if slot < 0:
        wait(EARLY)
        return
    position = tl.load(positions + slot).to(tl.int32)
    # Cached keys of this program: whole blocks, so that a row is cut in the same places in every batch.
    share = tl.cdiv(tl.cdiv(position, BLOCK), SPLITS) * BLOCK
    low = split * share
    high = tl.minimum(low + share, position)
    live = tl.maximum(tl.cdiv(position, tl.maximum(share, 1)), 1)
    if split >= live:
        wait(EARLY)
        return
    d = tl.arange(0, D)
    r = tl.arange(0, PAD)
    t = low + tl.arange(0, BLOCK)
    cache = (slot * KV + kv_head) * CONTEXT * D
    if K > 0:
        # Written by now: what multiplies these rows is launched after them, and lets nobody in before it has ended.
        residual = load_row(of, row, K)
    if AHEAD:
        k, v = _block(keys + cache, values + cache, t, high, d, D, POLICY)
    wait(EARLY)
    token = qkv + row.to(tl.int64) * ((GROUP + 2) * KV * D)
    norm = row_scale(residual, eps, K) if K > 0 else 1.0
    q = rotated(token + (kv_head * GROUP + r)[:, None] * D, d, cos, sin, position, (r < GROUP)[:, None], norm, D)
    if (keys.dtype.element_ty == tl.float8e4nv) and (q.dtype == tl.bfloat16):
        # Every number of 8 bits is one of float16, and the way there is short; weights are at most 1.
        q = tl.clamp(q.to(tl.float32), -65504.0, 65504.0).to(tl.float16)
    best = tl.full((PAD,), float("-inf"), dtype=tl.float32)
    mass = tl.zeros((PAD,), dtype=tl.float32)
    mixed = tl.zeros((PAD, D), dtype=tl.float32)
    if split == 0:
        # The new token is the first that this program attends to, from registers.
        new = cache + position.to(tl.int64) * D + d
        at_key = token + (KV * GROUP + kv_head) * D
        key, value = _kept(at_key, at_key + KV * D, keys + new, values + new, d, cos, sin, position, norm, D)
        best = tl.sum(q.to(tl.float32) * key.to(tl.float32), 1) * scale
        mass = tl.full((PAD,), 1.0, dtype=tl.float32)
        mixed += value.to(tl.float32)[None, :]
    if AHEAD:
        best, mass, mixed = _attended(q, k, v, t < high, scale, best, mass, mixed, EARLY)
    for start in tl.range(low + (BLOCK if AHEAD else 0), high, BLOCK):
        t = start + tl.arange(0, BLOCK)
        k, v = _block(keys + cache, values + cache, t, high, d, D, POLICY)
        best, mass, mixed = _attended(q, k, v, t < high, scale, best, mass, mixed, EARLY)
    first = row.to(tl.int64) * KV * GROUP + kv_head * GROUP
    if live == 1:
        result = (mixed / mass[:, None]).to(out.dtype.element_ty)
        tl.store(out + (first + r)[:, None] * D + d[None, :], result, mask=(r < GROUP)[:, None])
        return
    stats = partial + tl.num_programs(1).to(tl.int64) * KV * GROUP * SPLITS * D
    counter = arrived + row * KV + kv_head
    _left(partial, stats, counter, out, first, split, live, best, mass, mixed, D, GROUP, PAD, SPLITS)


@triton.jit
def _block(keys, values, t, high, d, D: tl.constexpr, POLICY):
    """The cached keys and values [BLOCK, D] of a head at the positions t; zeros from `high` on."""
    at = t[:, None].to(tl.int64) * D + d[None, :]
    k = tl.load(keys + at, mask=(t < high)[:, None], other=0.0, eviction_policy=POLICY)
    v = tl.load(values + at, mask=(t < high)[:, None], other=0.0, eviction_policy=POLICY)
    return k, v


@triton.jit
def _left(
    partial, stats, counter, out, first, split, live, best, mass, mixed,
    D: tl.constexpr, GROUP: tl.constexpr, PAD: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Leaves what one of several programs found; the last of them merges it all."""
    r, d = tl.arange(0, PAD), tl.arange(0, D)
    head, real = first + r, r < GROUP
    tl.store(partial + (head[:, None] * SPLITS + split) * D + d[None, :], mixed, mask=real[:, None])
    tl.store(stats + (head * SPLITS + split) * 2, best, mask=real)
    tl.store(stats + (head * SPLITS + split) * 2 + 1, mass, mask=real)
    tl.debug_barrier()
    if tl.atomic_add(counter, 1) == live - 1:
        tl.store(counter, 0)
        _merge(partial, stats, out, first, live, D, GROUP, SPLITS)


@triton.jit
def _kept(at_key, at_value, to_key, to_value, d, cos, sin, position, norm, D: tl.constexpr):
    """The new token's key [1, D], turned, and value [D], both times `norm`, after writing them into the cache."""
    one = tl.arange(0, 1)[:, None]
    key = cast(rotated(at_key + one, d, cos, sin, position, one == 0, norm, D), to_key.dtype.element_ty)
    value = tl.load(at_value + d)
    value = cast((norm * value.to(tl.float32)).to(value.dtype), to_value.dtype.element_ty)
    tl.store(to_key[None, :], key)
    tl.store(to_value, value)
    return key, value


@triton.jit
def _attended(q, k, v, inside, scale, best, mass, mixed, EARLY: tl.constexpr):
    """The running maximum, weight and mix of values after one more block of keys."""
    score = tl.dot(q, tl.trans(cast(k, q.dtype)), input_precision="ieee") * scale
    score = tl.where(inside[None, :], score, float("-inf"))
    better = tl.maximum(best, tl.max(score, 1))
    shrink = tl.exp2(best - better)
    weights = tl.exp2(score - better[:, None])
    wide = halves(v, q.dtype, EARLY)
    mixed = tl.dot(weights.to(q.dtype), wide, mixed * shrink[:, None], input_precision="ieee")
    return better, mass * shrink + tl.sum(weights, 1), mixed


@triton.jit
def _merge(partial, stats, out, first, live, D: tl.constexpr, GROUP: tl.constexpr, SPLITS: tl.constexpr):
    """What all programs of a group of heads found, into `out`: always in the order of the splits."""
    ROWS: tl.constexpr = triton.next_power_of_2(GROUP)
    r, s, d = tl.arange(0, ROWS), tl.arange(0, SPLITS), tl.arange(0, D)
    head = first + r
    there = (r < GROUP)[:, None] & (s < live)[None, :]
    at = stats + (head[:, None] * SPLITS + s[None, :]) * 2
    best = tl.load(at, mask=there, other=float("-inf"), cache_modifier=".cg")
    mass = tl.load(at + 1, mask=there, other=0.0, cache_modifier=".cg")
    top = tl.max(tl.where(there, best, -1e30), 1)
    total = tl.sum(mass * tl.exp2(best - top[:, None]), 1)
    mixed = tl.zeros((ROWS, D), dtype=tl.float32)
    for i in tl.static_range(SPLITS):
        one = (r < GROUP) & (i < live)
        grow = tl.exp2(
            tl.load(stats + (head * SPLITS + i) * 2, mask=one, other=float("-inf"), cache_modifier=".cg") - top
        )
        part = partial + (head[:, None] * SPLITS + i) * D + d[None, :]
        mixed += grow[:, None] * tl.load(part, mask=one[:, None], other=0.0, cache_modifier=".cg")
    kind = out.dtype.element_ty
    result = (mixed / tl.where(r < GROUP, total, 1.0)[:, None]).to(kind)
    tl.store(out + head[:, None] * D + d[None, :], result, mask=(r < GROUP)[:, None])
