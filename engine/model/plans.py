"""How a decode step is computed: a plan for each size of batch, by what the GPU, the weights and the cache are.

On Hopper kernels of CUDA C++ take the place of Triton's where they fit: see `hopper`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.model.backends import Attention
from engine.model.kernels import grouped, wgmma
from engine.model.kernels.linear import Tile
from engine.model.kernels.nvrtc import is_hopper, unusable
from engine.model.products import Cut
from engine.model.weights import LlamaShape, LlamaWeights

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
_CUTS = {
    "qkv": wgmma.Cut(splits=2, late=True),
    "attn_out": wgmma.Cut(splits=4),
    "gate_up": wgmma.Cut(),
    "down": wgmma.Cut(splits=4),
}
PLANS_WGMMA = (
    *(replace(plan, tiles=replace(plan.tiles, **_CUTS)) for plan in (ONE, FEW, SOME) if plan.tiles),
    replace(MANY, rows=256, gate_up=wgmma.Cut()),
    MANY,
)

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
# Keys and values of 8 bits, by the most rows that a cut is for.
CUTS_FP8 = {
    ONE.rows: ONE.attention,
    FEW.rows: Attention(splits=4, warps=1, stages=3),
    SOME.rows: Attention(warps=2, stages=3),
    MANY.rows: Attention(block=32, warps=1, stages=3, policy="evict_first"),
}
# With engine.model.kernels.grouped: as many warps as fill the card. Weights of 8 bits, too.
CUTS_GROUPED = {
    1: Attention(splits=4, warps=4, stages=2, grouped=True),
    8: Attention(splits=2, warps=4, stages=2, grouped=True),
    16: Attention(splits=1, warps=2, stages=4, grouped=True),
    32: Attention(splits=1, warps=2, stages=3, grouped=True),
    MANY.rows: Attention(splits=1, warps=1, stages=3, grouped=True),
}


@dataclass(frozen=True)
class Hopper:
    """Whether kernels of CUDA C++ can be used: for products, and for attention."""

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
        plans = _attending(plans, CUTS_FP8)
    if invariant:
        plans = tuple(plan for plan in plans if plan.tiles)
    else:
        # Rows of 8 bits are quicker than tiles that turn every weight to 16.
        plans = tuple(plan for plan in plans if plan.tiles is not SOME_FP8.tiles)
    return _attending(plans, CUTS_GROUPED) if kernels.attention else plans


def _attending(plans: tuple[Plan, ...], cuts: dict[int, Attention]) -> tuple[Plan, ...]:
    """The same plans with these cuts, which are by the most rows that one is for; a plan may become several."""
    most = plans[-1].rows
    ends = sorted({plan.rows for plan in plans} | {rows for rows in cuts if rows <= most})
    return tuple(
        replace(
            next(plan for plan in plans if plan.rows >= end), rows=end,
            attention=next(cut for rows, cut in cuts.items() if rows >= end),
        )
        for end in ends
    )  # fmt: skip
