"""One token for every row of a batch in Triton kernels, on buffers that stay where they are: what a CUDA graph holds.

Few rows: five kernels a layer, with norm, rotation, cache writes, activation and residual inside them. Many rows:
library matrix products with kernels between them. Equal to engine.model.llama.TorchLlama.step to rounding.

On Hopper kernels of CUDA C++ take the place of Triton's where they fit: see `hopper`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.model.backends import Attention, AttentionBackend
from engine.model.kernels import grouped, wgmma
from engine.model.kernels.attention import scratch_sizes
from engine.model.kernels.linear import Normed, Scratch, Tile, linear, parts
from engine.model.kernels.norm import rms_norm
from engine.model.kernels.nvrtc import is_hopper, unusable
from engine.model.kernels.prompt import attend_prompts
from engine.model.kernels.sampling import Embedding, embed, enter
from engine.model.library import finish, project
from engine.model.products import Cut, multiply, multiply_add
from engine.model.slots import SlotState
from engine.model.weights import HEAD_ROWS, LlamaShape, LlamaWeights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tiles:
    """The cut of every product of a step."""

    qkv: Cut
    attn_out: Cut
    gate_up: Cut
    down: Cut
    head: Tile

    def __post_init__(self) -> None:
        # Attention reads positions and old keys before it waits, the draw the streams' state: they may only start once
        # the wait of a layer's qkv is over.
        assert self.qkv.late if isinstance(self.qkv, wgmma.Cut) else self.qkv.lead > 0


@dataclass(frozen=True)
class Plan:
    """How batches of up to `rows` rows are computed; without tiles, by the library's products, but for `gate_up`."""

    rows: int
    tiles: Tiles | None
    attention: Attention
    gate_up: wgmma.Cut | None = None


# Chosen with benchmarks/plans.py on an H200 for Orpheus-3B's shapes; any shape computes correctly with them.
# All batches of one plan give a row the same bits; another plan may round otherwise, and so may a step with prompts.
ONE = Plan(
    1,
    Tiles(
        qkv=Tile(1, 4, 1024, 4, policy="evict_first"),
        attn_out=Tile(1, 8, 1024, 8, lead=0, policy="evict_first"),
        gate_up=Tile(1, 4, 1024, 4, lead=0, policy="evict_first"),
        down=Tile(1, 4, 2048, 8, lead=0, policy="evict_first"),
        head=Tile(1, 8, 1024, 4, lead=0),
    ),
    Attention(splits=16, block=64, warps=8, stages=1),
)
FEW = Plan(
    16,
    Tiles(
        qkv=Tile(16, 64, 256, 4, 4, lead=3, ahead=256),
        attn_out=Tile(16, 32, 128, 4, 6, splits=4, lead=3, ahead=256),
        gate_up=Tile(16, 16, 256, 2, 3, lead=0),
        down=Tile(16, 32, 128, 2, 6, splits=4, lead=3, ahead=1024),
        head=Tile(16, 32, 128, 2, 6),
    ),
    Attention(splits=4, block=32),
)
SOME = Plan(
    64,
    Tiles(
        qkv=Tile(64, 64, 128, 4, 5, lead=3, ahead=256),
        attn_out=Tile(64, 32, 128, 4, 6),
        gate_up=Tile(64, 32, 128, 4, 3),
        down=Tile(64, 32, 128, 4, 8, lead=3, ahead=1024),
        head=Tile(64, 32, 128, 4, 4),
    ),
    Attention(warps=2),
)
MANY = Plan(2**20, None, Attention(block=32, warps=1, policy="evict_first"))
PLANS = (ONE, FEW, SOME, MANY)

# With engine.model.kernels.wgmma: up to 64 rows all products, up to 256 gate and up alone. More rows than that are two
# tiles, which would read each weight twice.
SOME_WGMMA = Plan(
    SOME.rows,
    Tiles(
        qkv=wgmma.Cut(splits=2, late=True),
        attn_out=wgmma.Cut(splits=4),
        gate_up=wgmma.Cut(),
        down=wgmma.Cut(splits=4),
        head=Tile(64, 32, 128, 4, 4),
    ),
    SOME.attention,
)
MANY_WGMMA = replace(MANY, rows=256, gate_up=wgmma.Cut())
PLANS_WGMMA = (ONE, FEW, SOME_WGMMA, MANY_WGMMA, MANY)

# Layers of 8 bits. One stream: 256 inputs a warp, see engine.model.kernels.single.
ONE_FP8 = Plan(
    1,
    Tiles(
        qkv=Tile(1, 16, 1024, 8, policy="evict_first"),
        attn_out=Tile(1, 16, 4096, 16, policy="evict_first"),
        gate_up=Tile(1, 4, 1024, 4, policy="evict_first"),
        down=Tile(1, 4, 2048, 8, policy="evict_first"),
        head=Tile(1, 8, 1024, 8),
    ),
    Attention(splits=8, block=128, warps=8, stages=1),
)
FEW_FP8 = Plan(
    16,
    Tiles(
        qkv=Tile(16, 32, 256, 4, 6, lead=3, ahead=512),
        attn_out=Tile(16, 32, 128, 2, 6, splits=4, ahead=512),
        gate_up=Tile(16, 32, 128, 2, 8),
        down=Tile(16, 32, 256, 4, 3, splits=4),
        head=Tile(16, 32, 128, 2, 6),
    ),
    Attention(splits=4, block=32),
)
SOME_FP8 = Plan(
    64,
    Tiles(
        qkv=Tile(64, 64, 128, 4, 4, lead=3, ahead=256),
        attn_out=Tile(64, 32, 128, 4, 5),
        gate_up=Tile(64, 64, 128, 4, 3),
        down=Tile(64, 64, 128, 4, 4, splits=4, ahead=256),
        head=Tile(64, 32, 128, 4, 4),
    ),
    Attention(),
)
PLANS_FP8 = (ONE_FP8, FEW_FP8, SOME_FP8, MANY)
# Keys and values of 8 bits, by the rows of the plan.
CUTS_FP8 = {
    ONE.rows: ONE.attention,
    FEW.rows: Attention(splits=4, warps=1, stages=3),
    SOME.rows: Attention(warps=2, stages=3),
    MANY_WGMMA.rows: Attention(block=32, warps=1, stages=3, policy="evict_first"),
    MANY.rows: Attention(block=32, warps=1, stages=3, policy="evict_first"),
}


@dataclass(frozen=True)
class Hopper:
    """Whether kernels of CUDA C++ can be used: for products, and for attention with one program a head."""

    products: bool = False
    attention: bool = False


def hopper(shape: LlamaShape, weights: LlamaWeights, keys: Tensor) -> Hopper:
    """What can be used for these, and a word in the log; `keys` is the whole cache."""
    if not is_hopper(keys.device):
        return Hopper()
    if reason := unusable(keys.device):
        log.warning("kernels of CUDA C++ cannot be used, steps take longer: %s", reason)
        return Hopper()
    matrices = (m for layer in weights.layers for m in (layer.qkv, layer.attn_out, layer.gate_up, layer.down))
    fits = Hopper(
        all(wgmma.fits(matrix) for matrix in matrices),
        grouped.fits(keys, weights.embed.dtype, shape.heads // shape.kv_heads),
    )
    log.info("kernels of CUDA C++ fit: products %s, attention %s", fits.products, fits.attention)
    return fits


def plans_of(
    weights: LlamaWeights, keys: Tensor, invariant: bool = False, kernels: Hopper | None = None
) -> tuple[Plan, ...]:
    """The plans for weights and keys of these kinds, for ever more rows; `invariant`: those of fixed cuts alone."""
    kernels = kernels or Hopper()
    plans = PLANS_FP8 if weights.quantised else PLANS_WGMMA if kernels.products else PLANS
    if keys.dtype == torch.float8_e4m3fn:
        plans = tuple(replace(plan, attention=CUTS_FP8[plan.rows]) for plan in plans)
    if kernels.attention:
        plans = tuple(
            replace(plan, attention=Attention(grouped=True)) if plan.attention.splits == 1 else plan for plan in plans
        )
    if invariant:
        return tuple(plan for plan in plans if plan.tiles)
    # Rows of 8 bits are quicker than tiles that turn every weight to 16.
    return tuple(plan for plan in plans if plan.tiles is not SOME_FP8.tiles)


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
