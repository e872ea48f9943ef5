"""torch's attention over static slots: one query a row for decoding, whole prompts for prefill. On every device.

keys and values: [slots, kv_heads, context, head_dim] of one layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def decode_attention(
    query: Tensor, keys: Tensor, values: Tensor, slots: Tensor, positions: Tensor, length: int
) -> Tensor:
    """query [B, heads, head_dim] at `positions` [B] of `slots` [B]; -> [B, heads * head_dim].

    `length` bounds every row's position + 1, so that only that much of the cache is read.
    """
    k, v = (_cached(cache, slots, length, query.dtype) for cache in (keys, values))
    visible = torch.arange(length, device=query.device)[None] <= positions[:, None]
    # The heads that share keys stand where a longer query's tokens would: nothing is repeated for them.
    grouped = query.unflatten(1, (keys.shape[1], -1))
    out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=visible[:, None, None])
    return out.reshape(query.shape[0], -1)


def _cached(cache: Tensor, slots: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    if cache.dtype == dtype:
        return cache[slots, :, :length]
    # torch does not gather 8-bit numbers everywhere, but bytes.
    return cache.view(torch.uint8)[slots, :, :length].view(cache.dtype).to(dtype)


def prefill_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention within each of n prompts; -> [n, T, heads * head_dim].

    query [n, heads, T, head_dim], key and value [n, kv_heads, T, head_dim].
    """
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).flatten(2)
