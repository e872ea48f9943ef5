"""Attention over static slots: one query a row for decoding, a whole prompt for prefill. SDPA on every device.

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
    k = keys[slots, :, :length]
    v = values[slots, :, :length]
    visible = torch.arange(length, device=query.device)[None] <= positions[:, None]
    out = F.scaled_dot_product_attention(query[:, :, None], k, v, attn_mask=visible[:, None, None], enable_gqa=True)
    return out.reshape(query.shape[0], -1)


def prefill_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention within one prompt; -> [T, heads * head_dim].

    query [T, heads, head_dim], key and value [T, kv_heads, head_dim].
    """
    q, k, v = (t.transpose(0, 1)[None] for t in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out[0].transpose(0, 1).reshape(query.shape[0], -1)
