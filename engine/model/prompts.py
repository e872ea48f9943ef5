"""A prompt's tokens through all layers: a few in the kernels of a decode step, more by the library's products.

The last layer's output is read by nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from engine.model.kernels.linear import Normed, parts
from engine.model.library import finish, project
from engine.model.plans import SOME, Tiles
from engine.model.products import multiply, multiply_add
from engine.model.weights import LlamaShape, LlamaWeights

FEW_TOKENS = SOME.rows


def few_tokens(
    x: Tensor, weights: LlamaWeights, shape: LlamaShape, tiles: Tiles, attend: Callable[[int, Tensor], Tensor],
    early: bool,
) -> None:  # fmt: skip
    """Embeddings x [T, hidden] of at most FEW_TOKENS tokens; overwritten. As engine.model.fused does a step's rows.

    `attend(i, qkv)` turns layer i's queries and keys in qkv [T, (heads + 2 kv_heads) * D], keeps its keys and values
    and attends: -> [T, heads * D]. `early`: kernels are launched early, and so may follow the one that it launches.
    """
    tokens = x.shape[0]
    qkv = x.new_empty(tokens, (shape.heads + 2 * shape.kv_heads) * shape.head_dim)
    inner = x.new_empty(tokens, shape.intermediate)
    entered = Normed(x, x.float().square().sum(1, keepdim=True))
    after_attention, after_layer = (
        Normed(x, entered.squares.new_empty(tokens, parts(shape.hidden, tile))) for tile in (tiles.attn_out, tiles.down)
    )
    for i, layer in enumerate(weights.layers):
        multiply(after_layer if i else entered, layer.qkv, qkv, tiles.qkv, eps=shape.eps, early=early)
        attended = attend(i, qkv)
        if i + 1 == shape.layers:
            return
        multiply_add(attended, layer.attn_out, after_attention, tiles.attn_out, early=early)
        multiply(after_attention, layer.gate_up, inner, tiles.gate_up, eps=shape.eps, gated=True, early=early)
        multiply_add(inner, layer.down, after_layer, tiles.down, early=early)


def many_tokens(
    x: Tensor, weights: LlamaWeights, shape: LlamaShape, keep: Callable[[int, Tensor, Tensor | None], None],
    attend: Callable[[Tensor], Tensor], early: bool,
) -> None:  # fmt: skip
    """Embeddings x [T, hidden] of any number of tokens; overwritten.

    `keep(i, qkv, norms)` turns layer i's queries and keys in qkv [T, (heads + 2 kv_heads) * D] and keeps its keys and
    values, with `norms`, float32 [T], each row times its own. Then `attend(qkv)` attends: -> [T, heads * D].
    """
    qkv = x.new_empty(x.shape[0], (shape.heads + 2 * shape.kv_heads) * shape.head_dim)
    for i, layer in enumerate(weights.layers):
        keep(i, qkv, project(x, layer, shape.eps, qkv, early))
        if i + 1 < shape.layers:
            finish(x, attend(qkv), layer, shape.eps)
