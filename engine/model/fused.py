"""One token for every row of a batch in kernels, on buffers that stay where they are: what a CUDA graph holds.

Few rows: five kernels a layer, with norm, rotation, cache writes, activation and residual inside them. Many rows:
library matrix products with kernels between them: see engine.model.plans. Equal to engine.model.llama.TorchLlama.step
to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.model.backends import Attention, AttentionBackend
from engine.model.kernels.attention import scratch_sizes
from engine.model.kernels.linear import Normed, Scratch, Tile, linear, parts
from engine.model.kernels.norm import rms_norm
from engine.model.kernels.prompt import attend_prompts
from engine.model.kernels.sampling import Embedding, embed, enter
from engine.model.library import finish, project
from engine.model.plans import Plan, Tiles
from engine.model.products import multiply, multiply_add
from engine.model.slots import SlotState
from engine.model.weights import HEAD_ROWS, LlamaShape, LlamaWeights


@dataclass(frozen=True)
class Prompts:
    """Prompts that a step reads beside its rows: `ids` [P * T], prompt after prompt, for the slots `slots` [P]."""

    ids: Tensor
    slots: Tensor

    @property
    def tokens(self) -> int:
        return self.ids.shape[0]


class FusedStep:
    """Buffers for up to `rows` rows, and the step that runs on the first of them. `x` holds the residual stream.

    The weights' norms are folded: see LlamaWeights.fold_norms.
    """

    def __init__(
        self, shape: LlamaShape, weights: LlamaWeights, keys: Tensor, values: Tensor, cos: Tensor, sin: Tensor,
        state: SlotState, rows: int, early: bool, plans: tuple[Plan, ...], attention: AttentionBackend,
    ) -> None:  # fmt: skip
        self.shape, self.weights, self.state, self.plans = shape, weights, state, plans
        self.keys, self.values, self.cos, self.sin = keys, values, cos, sin
        self.early, self.attention = early, attention
        device, dtype = weights.embed.device, weights.embed.dtype

        def buffer(width: int, kind: torch.dtype = dtype) -> Tensor:
            return torch.zeros(rows, width, dtype=kind, device=device)

        self.rows = torch.full((rows,), -1, dtype=torch.int32, device=device)
        self.x, self.normed = buffer(shape.hidden), buffer(shape.hidden)
        self.qkv = buffer((shape.heads + 2 * shape.kv_heads) * shape.head_dim)
        self.attended = buffer(shape.heads * shape.head_dim)
        self.inner = buffer(shape.intermediate)
        self.logits = buffer(HEAD_ROWS, torch.float32)
        # A kernel that completes a norm knows in how many parts its beginner left it: buffers of each plan's own.
        self._squares = {plan: _squares(plan, shape.hidden, rows, device) for plan in plans}
        self.scratch = self._scratch(rows, device)

    def plan(self, count: int) -> Plan:
        """That of a batch with `count` rows."""
        return next(plan for plan in self.plans if plan.rows >= count)

    def embedding(self, count: int) -> Embedding:
        """Where the tokens' embeddings go, for a batch with `count` rows."""
        return Embedding(self.weights.embed, Normed(self.x, self._squares[self.plan(count)][1]))

    def enter(self, count: int, prompts: Prompts | None = None) -> None:
        """Fills the embeddings of the first `count` rows' last tokens, and after them those of prompts."""
        table = self.embedding(count + prompts.tokens if prompts else count)
        enter(self.state, self.rows[:count], table)
        if prompts:
            rest = Normed(*(t[count:] for t in (table.x.values, table.x.squares)))
            embed(prompts.ids, Embedding(table.weight, rest))

    def run(self, count: int, k: int, prompts: Prompts | None = None) -> Tensor:
        """Takes the first `count` rows through all layers, from where `enter` or the last draw left their embeddings.

        -> slot k's logits, float32 [count, HEAD_ROWS]. Keys and values of the rows' streams are written at their
        positions. `prompts`: their keys and values are written, too, before the rows attend: a row may go on from one.
        Only where a plan for so many rows has tiles, and with attention of Triton.
        """
        if prompts:
            plan = replace(self.plan(count + prompts.tokens), attention=self.plan(count).attention)
            assert plan.tiles
            return self._fused(count, k, plan, plan.tiles, prompts)
        plan = self.plan(count)
        return self._fused(count, k, plan, plan.tiles) if plan.tiles else self._library(count, k, plan)

    def _fused(self, count: int, k: int, plan: Plan, tiles: Tiles, prompts: Prompts | None = None) -> Tensor:
        """Five kernels a layer; with prompts six."""
        weights, scratch, early, eps = self.weights, self.scratch, self.early, self.shape.eps
        together = count + prompts.tokens if prompts else count
        x, qkv, inner = self._rows(together, "x", "qkv", "inner")
        after_attention, after_layer = (Normed(x, squares) for squares in self._squares[self.plan(together)])
        for i, layer in enumerate(weights.layers):
            multiply(after_layer, layer.qkv, qkv, tiles.qkv, eps=eps, scratch=scratch, early=early)
            attended = self._attend(i, count, plan.attention, None, prompts)
            multiply_add(attended, layer.attn_out, after_attention, tiles.attn_out, scratch=scratch, early=early)
            multiply(after_attention, layer.gate_up, inner, tiles.gate_up, eps=eps, gated=True, early=early)
            multiply_add(inner, layer.down, after_layer, tiles.down, scratch=scratch, early=early)
        logits = self.logits[:count]
        last = Normed(x[:count], after_layer.squares)
        linear(last, weights.head[k], logits, tiles.head, eps=eps, scratch=scratch, early=early)
        return logits

    def _library(self, count: int, k: int, plan: Plan) -> Tensor:
        """Library products, which also add the residual."""
        x, normed, qkv, logits = self._rows(count, "x", "normed", "qkv", "logits")
        eps = self.shape.eps
        for i, layer in enumerate(self.weights.layers):
            norms = project(x, layer, eps, qkv, self.early)
            finish(x, self._attend(i, count, plan.attention, norms), layer, eps, self.early, plan.gate_up)
        rms_norm(x, eps, normed, early=self.early)
        wide = {} if normed.dtype == torch.float32 else {"out_dtype": torch.float32}
        return torch.mm(normed, self.weights.head[k].t(), **wide, out=logits)

    def _attend(
        self, i: int, count: int, cut: Attention, norms: Tensor | None, prompts: Prompts | None = None
    ) -> Tensor:  # fmt: skip
        keys, values = self.keys[i], self.values[i]
        if prompts:
            beside = slice(count, count + prompts.tokens)
            attend_prompts(
                self.qkv[beside], keys, values, prompts.slots, self.cos, self.sin, self.attended[beside], self.early
            )
        # A row may read what its prompt has just written: its kernel is not launched before that is there.
        attended = self.attention.decode(
            self.qkv[:count], keys, values, self.rows[:count], self.state.position, self.cos, self.sin,
            self.attended[:count], cut=cut, scratch=self.scratch, early=self.early and not prompts, norms=norms,
        )  # fmt: skip
        return self.attended[: beside.stop] if prompts else attended

    def _rows(self, count: int, *names: str) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name)[:count] for name in names)

    def _scratch(self, rows: int, device: torch.device) -> Scratch:
        """Enough for every plan."""
        shape, partials, counters = self.shape, 1, 1
        widest = max(shape.hidden, self.qkv.shape[1], HEAD_ROWS)
        for plan in self.plans:
            most = min(plan.rows, rows)
            some, count = scratch_sizes(most, shape.heads, shape.head_dim, plan.attention.splits)
            tiles = [cut for cut in vars(plan.tiles).values() if isinstance(cut, Tile)] if plan.tiles else []
            splits = max((tile.splits for tile in tiles), default=1)
            partials, counters = max(partials, some, most * splits * widest), max(counters, count, most * widest)
        return Scratch.on(device, partials, counters)


def _squares(plan: Plan, hidden: int, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sums of squares after attention and after a layer, a row's parts side by side: every program reads them all."""
    tiles = (plan.tiles.attn_out, plan.tiles.down) if plan.tiles else (Tile(), Tile())
    first, second = (torch.zeros(rows, parts(hidden, tile), device=device) for tile in tiles)
    return first, second
