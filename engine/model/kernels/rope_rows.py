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

from engine.model.kernels.rope import turn_head


def turn_rows(
    qkv: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor,
    norms: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """-> int32 [M] each: the slot of every row and how many of its keys there are now; slot 0 and none for no stream.

    qkv [M, (heads + 2 kv_heads) * D] of the slots `rows` [M], -1: no stream; queries and keys are turned in place.
    keys, values [slots, kv_heads, context, D] of one layer; positions [slots]; cos, sin float32 [context, D / 2]. With
    `norms`, float32 [M], each row of qkv is taken times its own.
    """
    _, kv_heads, context, dim = keys.shape
    slots, lengths = (torch.empty_like(rows) for _ in range(2))
    _turn_rows[(rows.shape[0], qkv.shape[1] // dim)](
        qkv, keys, values, rows, positions, cos, sin, slots, lengths, norms,
        D=dim, HEADS=qkv.shape[1] // dim, KV=kv_heads, CONTEXT=context, num_warps=1,
    )  # fmt: skip
    return slots, lengths


@triton.jit
def _turn_rows(
    qkv, keys, values, rows, positions, cos, sin, slots, lengths, norms,
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
    at = qkv + (row.to(tl.int64) * HEADS + head) * D
    norm = tl.load(norms + row) if norms is not None else 1.0
    turn_head(at, keys, values, slot, position, head, cos, sin, norm, D, HEADS, KV, CONTEXT)
