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


def attend(
    qkv: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, out: Tensor,
    scratch: Scratch, *, norms: Tensor | None = None, splits: int, block: int = 64, warps: int = 4, stages: int = 2,
    policy: str = "", early: bool = False,
) -> None:  # fmt: skip
    """out [M, heads * D] for qkv [M, (heads + 2 kv_heads) * D] of the slots `rows` [M]; -1: no stream.

    keys, values [slots, kv_heads, context, D] of one layer, of qkv's type or float8_e4m3fn; positions [slots]; cos, sin
    float32 [context, D / 2]. With `norms`, float32 [M], each row of qkv is taken times its own.
    """
    _, kv_heads, context, dim = keys.shape
    group = out.shape[1] // (kv_heads * dim)
    # A row's heads one after another: programs that run at once read neighbouring memory.
    _attend[(kv_heads, rows.shape[0], splits)](
        qkv, keys, values, rows, positions, cos, sin, out, scratch.partial, scratch.arrived,
        math.log2(math.e) / math.sqrt(dim), norms,
        CONTEXT=context, D=dim, KV=kv_heads, GROUP=group, PAD=16, BLOCK=block, SPLITS=splits, POLICY=policy,
        EARLY=early, num_warps=warps, num_stages=stages, **launched(early),
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
    qkv, keys, values, rows, positions, cos, sin, out, partial, arrived, scale, norms,
    CONTEXT: tl.constexpr, D: tl.constexpr, KV: tl.constexpr, GROUP: tl.constexpr, PAD: tl.constexpr,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr, POLICY: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    kv_head, row, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    # Whatever wrote these and the old keys has ended: who makes q, k and v lets this kernel in once all before is done.
    slot = tl.load(rows + row).to(tl.int64)
    if slot < 0:
        wait(EARLY)
        return
    position = tl.load(positions + slot).to(tl.int32)
    low, high, live = _share(position, split, BLOCK, SPLITS)
    if split >= live:
        wait(EARLY)
        return
    r, t, d = tl.arange(0, PAD), tl.arange(0, BLOCK), tl.arange(0, D)
    cache = (slot * KV + kv_head) * CONTEXT * D
    head_keys, head_values, block = keys + cache, values + cache, t[:, None] * D + d[None, :]
    # The last block, which may be a part of one, comes first, asked for before the wait; the others need no masks.
    last = tl.maximum(low, (high - 1) // BLOCK * BLOCK)
    inside = last + t < high
    k = tl.load(head_keys + (block + last * D), mask=inside[:, None], other=0.0, eviction_policy=POLICY)
    v = tl.load(head_values + (block + last * D), mask=inside[:, None], other=0.0, eviction_policy=POLICY)
    wait(EARLY)
    token = qkv + row.to(tl.int64) * ((GROUP + 2) * KV * D)
    norm = tl.load(norms + row) if norms is not None else 1.0
    q = rotated(token + (kv_head * GROUP + r)[:, None] * D, d, cos, sin, position, (r < GROUP)[:, None], norm, D)
    if (keys.dtype.element_ty == tl.float8e4nv) and (q.dtype == tl.bfloat16):
        # Every number of 8 bits is one of float16, and the way there is short; weights are at most 1.
        q = tl.clamp(q.to(tl.float32), -65504.0, 65504.0).to(tl.float16)
    best = tl.full((PAD,), float("-inf"), dtype=tl.float32)
    mass = tl.zeros((PAD, BLOCK), dtype=tl.float32)
    mixed = tl.zeros((PAD, D), dtype=tl.float32)
    if split == 0:
        # The new token is the first that this program attends to, from registers.
        at_key, new = token + (KV * GROUP + kv_head) * D, position * D + d
        key, value = _kept(at_key, at_key + KV * D, head_keys + new, head_values + new, d, cos, sin, position, norm, D)
        best = tl.sum(q.to(tl.float32) * key.to(tl.float32), 1) * scale
        mass += tl.where(t == 0, 1.0, 0.0)[None, :]
        mixed += value.to(tl.float32)[None, :]
    score = tl.where(inside[None, :], _score(q, k), float("-inf"))
    best, mass, mixed = _attended(score, v, scale, best, mass, mixed, q.dtype, EARLY)
    for start in tl.range(low, last, BLOCK):
        # Offsets of 32 bits, which both share, take fewer registers than pointers.
        k = tl.load(head_keys + (block + start * D), eviction_policy=POLICY)
        v = tl.load(head_values + (block + start * D), eviction_policy=POLICY)
        best, mass, mixed = _attended(_score(q, k), v, scale, best, mass, mixed, q.dtype, EARLY)
    total = tl.sum(mass, 1)
    first = row.to(tl.int64) * KV * GROUP + kv_head * GROUP
    if live == 1:
        result = (mixed / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + (first + r)[:, None] * D + d[None, :], result, mask=(r < GROUP)[:, None])
        return
    stats = partial + tl.num_programs(1).to(tl.int64) * KV * GROUP * SPLITS * D
    counter = arrived + row * KV + kv_head
    _left(partial, stats, counter, out, first, split, live, best, total, mixed, D, GROUP, PAD, SPLITS)


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
def _share(position, split, BLOCK: tl.constexpr, SPLITS: tl.constexpr):
    """From where to where a program's cached keys reach, and how many programs have any.

    They are whole blocks, so that a row is cut in the same places in every batch.
    """
    share = tl.cdiv(tl.cdiv(position, BLOCK), SPLITS) * BLOCK
    low = split * share
    return low, tl.minimum(low + share, position), tl.maximum(tl.cdiv(position, tl.maximum(share, 1)), 1)


@triton.jit
def _score(q, k):
    """Products of queries and keys, [PAD, BLOCK] float32."""
    return tl.dot(q, tl.trans(cast(k, q.dtype)), input_precision="ieee")


@triton.jit
def _attended(score, v, scale, best, mass, mixed, kind, EARLY: tl.constexpr):
    """The running maximum [PAD], weights' sums [PAD, BLOCK] and mix of values after one more block of keys.

    The sums stay apart until the end, where they are added up once.
    """
    better = tl.maximum(best, tl.max(score, 1) * scale)
    shrink = tl.exp2(best - better)[:, None]
    weights = tl.exp2(score * scale - better[:, None])
    mixed = tl.dot(weights.to(kind), halves(v, kind, EARLY), mixed * shrink, input_precision="ieee")
    return better, mass * shrink + weights, mixed


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
