"""One program a stream: repetition penalty, temperature, top-k, top-p and a keyed draw over 4,097 logits, then the
stream's state and the next token's embedding. Draws what engine.model.sampler draws, given equal logits.

Thresholds are found by bisecting the logits' bit patterns instead of sorting; weights are float64.
"""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportArgumentType=false, reportReturnType=false
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from engine.model.kernels.chain import begin, launched, wait
from engine.model.kernels.linear import Normed
from engine.model.slots import SlotState
from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS

_GAMMA = tl.constexpr(0x9E3779B97F4A7C15)
_MIX_1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MIX_2 = tl.constexpr(0x94D049BB133111EB)


@dataclass(frozen=True)
class Embedding:
    """Where tokens' embeddings `weight` [vocab, hidden] go: the residual stream, whose first norm they begin."""

    weight: Tensor
    x: Normed

    def arguments(self) -> tuple[Tensor, ...]:
        """For a kernel."""
        return self.weight, self.x.values, self.x.squares

    def sizes(self) -> dict[str, int]:
        """For a kernel."""
        hidden = self.x.values.shape[1]
        return {"HIDDEN": hidden, "PARTS": self.x.squares.shape[1], "BLOCK": triton.next_power_of_2(hidden)}


def draw(
    logits: Tensor, k: int, state: SlotState, rows: Tensor, limits: Tensor, table: Embedding, codes: Tensor,
    ended: Tensor, first_audio: int, early: bool = False,
) -> None:  # fmt: skip
    """Draws slot k's code of each row from logits [M, >= 4097] float32 and moves its stream one step on.

    rows [M] int32: a stream's slot, -1 for none. limits [2] int64: no end of speech before `limits[0]` frames, no
    position past `limits[1]`. Writes codes [M, 7], ended [M] (int32, at k = 0) and the next token as `table` says.
    """
    _draw[(rows.shape[0],)](
        logits, rows, state.token, state.position, state.frame, state.seed, state.temperature, state.top_p,
        state.penalty, state.top_k, state.window, state.last_seen, limits, *table.arguments(), codes, ended,
        logits.stride(0), first_audio + k * CODEBOOK_SIZE,
        SLOT=k, FRAME=FRAME_TOKENS, CODES=CODEBOOK_SIZE, **table.sizes(), EARLY=early, num_warps=8,
        **launched(early),
    )  # fmt: skip


def enter(state: SlotState, rows: Tensor, table: Embedding) -> None:
    """The embedding of each row's last token, as `table` says."""
    _enter[(rows.shape[0],)](rows, state.token, *table.arguments(), **table.sizes(), num_warps=4)


def embed(ids: Tensor, table: Embedding) -> None:
    """The embeddings of the tokens ids [T], as `table` says."""
    _embed_ids[ids.shape](ids, *table.arguments(), **table.sizes(), num_warps=4)


@triton.jit
def _embed(
    embed, x, squares, token, row,
    HIDDEN: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    h = tl.arange(0, BLOCK)
    inside = h < HIDDEN
    values = tl.load(embed + token.to(tl.int64) * HIDDEN + h, mask=inside, other=0.0)
    wide = values.to(tl.float32)
    at = row.to(tl.int64) * HIDDEN + h
    tl.store(x + at, values, mask=inside)
    p = tl.arange(0, triton.next_power_of_2(PARTS))
    tl.store(squares + row * PARTS + p, tl.where(p == 0, tl.sum(wide * wide, 0), 0.0), mask=p < PARTS)


@triton.jit
def _enter(
    rows, tokens, embed, x, squares,
    HIDDEN: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    slot = tl.load(rows + row)
    if slot >= 0:
        _embed(embed, x, squares, tl.load(tokens + slot), row, HIDDEN, PARTS, BLOCK)


@triton.jit
def _embed_ids(
    ids, embed, x, squares,
    HIDDEN: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    _embed(embed, x, squares, tl.load(ids + row), row, HIDDEN, PARTS, BLOCK)


@triton.jit
def _uniform(key, counter):
    """engine.model.rng.keyed_uniform for one pair."""
    z = key.to(tl.uint64, bitcast=True) + (counter + 1).to(tl.uint64, bitcast=True) * _GAMMA
    z = (z ^ (z >> 30)) * _MIX_1
    z = (z ^ (z >> 27)) * _MIX_2
    z = z ^ (z >> 31)
    return ((z >> 41).to(tl.int64).to(tl.float32) + 0.5) * (1.0 / 8388608.0)


@triton.jit
def _ordered(x):
    """An int32 that sorts as the float32 does."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _heavier(ranks, end_rank, weights, end_weight, bound):
    """The summed weight of everything that ranks above `bound`."""
    above = tl.sum(tl.where(ranks > bound, weights, 0.0), 0)
    return above + tl.where(end_rank > bound, end_weight, 0.0)


@triton.jit
def _bisect(ranks, end_rank, weights, end_weight, low, high, goal):
    """The lowest rank in [low, high] above which less than `goal` weighs; it holds at `high`.

    Both ends move on to ranks that occur, so that a few steps do.
    """
    while low < high:
        middle = (low + (high - low) // 2).to(tl.int32)
        if _heavier(ranks, end_rank, weights, end_weight, middle) < goal:
            high = tl.maximum(low, _highest(ranks, end_rank, middle).to(tl.int64))
        else:
            low = tl.minimum(high, _lowest(ranks, end_rank, middle).to(tl.int64))
    return low


@triton.jit
def _highest(ranks, end_rank, bound):
    """The highest rank up to `bound`."""
    codes = tl.max(tl.where(ranks <= bound, ranks, -2147483648), 0)
    return tl.maximum(codes, tl.where(end_rank <= bound, end_rank, -2147483648))


@triton.jit
def _lowest(ranks, end_rank, bound):
    """The lowest rank above `bound`."""
    codes = tl.min(tl.where(ranks > bound, ranks, 2147483647), 0)
    return tl.minimum(codes, tl.where(end_rank > bound, end_rank, 2147483647))


@triton.jit
def _lowest_kept(ranks, end_rank, weights, end_weight, best, top_k, top_p, CODES: tl.constexpr):
    """The rank of the last that is among the k best and in the nucleus of mass p, which is taken among the k best.

    Weights are relative to that of a logit `best`.
    """
    low = tl.minimum(tl.min(ranks, 0), end_rank).to(tl.int64)
    high = tl.maximum(tl.max(ranks, 0), end_rank).to(tl.int64)
    total = tl.sum(weights, 0) + end_weight
    if (top_k > 1) & (top_k <= CODES):
        ones = tl.full((CODES,), 1.0, tl.float64)
        low = _bisect(ranks, end_rank, ones, end_weight * 0.0 + 1.0, low, high, top_k.to(tl.float64))
        # Of those that tie for the last place only as many count as there are places.
        bound = low.to(tl.int32)
        above = _heavier(ranks, end_rank, weights, end_weight, bound)
        counted = _heavier(ranks, end_rank, ones, end_weight * 0.0 + 1.0, bound)
        tied = tl.maximum(
            tl.max(tl.where(ranks == bound, weights, 0.0), 0), tl.where(end_rank == bound, end_weight, 0.0)
        )
        total = above + (top_k.to(tl.float64) - counted) * tied
    if top_p < 1.0:
        # All together, those that weigh so little are too light to reach below the nucleus: fewer ranks to look among.
        light = best + tl.log((1.0 - top_p) * total / (CODES + 1)).to(tl.float32) - 0.01 - tl.abs(best) * 1e-6
        low = tl.minimum(tl.maximum(low, _ordered(light).to(tl.int64)), high)
        low = _bisect(ranks, end_rank, weights, end_weight, low, high, top_p * total)
    return low


@triton.jit
def _draw(
    logits, rows, tokens, positions, frames, seeds, temperatures, top_ps, penalties, top_ks, windows, last_seen, limits,
    embed, x, squares, codes, ended, stride, first_token,
    SLOT: tl.constexpr, FRAME: tl.constexpr, CODES: tl.constexpr, HIDDEN: tl.constexpr, PARTS: tl.constexpr,
    BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    row = tl.program_id(0)
    # A stream's state is the last draw's, a whole step ago: the product that makes the logits is let in when all before
    # the last layer's q, k and v is written. Only the logits are waited for.
    slot = tl.load(rows + row).to(tl.int64)
    if slot < 0:
        wait(EARLY)
        return
    frame = tl.load(frames + slot)
    step = frame * FRAME + SLOT
    index = tl.arange(0, CODES)
    seen = last_seen + (slot * FRAME + SLOT) * CODES
    temperature = tl.load(temperatures + slot)
    top_p = tl.load(top_ps + slot).to(tl.float64)
    penalty = tl.load(penalties + slot)
    top_k = tl.load(top_ks + slot)
    recent = step - tl.load(seen + index).to(tl.int64) <= tl.load(windows + slot).to(tl.int64)
    uniform = _uniform(tl.load(seeds + slot), step).to(tl.float64)
    position = tl.load(positions + slot)

    wait(EARLY)
    code = tl.load(logits + row.to(tl.int64) * stride + index)
    code = tl.where(recent, tl.where(code > 0, tl.div_rn(code, penalty), code * penalty), code)
    code = tl.div_rn(code, temperature)
    end = tl.div_rn(tl.load(logits + row.to(tl.int64) * stride + CODES), temperature)
    may_end = (SLOT == 0) & (frame >= tl.load(limits))
    end = tl.where(may_end, end, float("-inf"))

    best = tl.maximum(tl.max(code, 0), end)
    weights = tl.exp(code.to(tl.float64) - best.to(tl.float64))
    end_weight = tl.exp(end.to(tl.float64) - best.to(tl.float64))
    ranks, end_rank = _ordered(code), _ordered(end)
    low = _lowest_kept(ranks, end_rank, weights, end_weight, best, top_k, top_p, CODES)
    weights = tl.where(ranks >= low, weights, 0.0)
    end_weight = tl.where(end_rank >= low, end_weight, 0.0)

    cumulative = tl.cumsum(weights, 0)
    goal = uniform * (tl.max(cumulative, 0) + end_weight)
    drawn = tl.sum((cumulative <= goal).to(tl.int32), 0)
    last = tl.where(end_weight > 0, CODES, tl.max(tl.where(weights > 0, index, 0), 0))
    drawn = tl.minimum(drawn, last)
    if top_k == 1:
        drawn = tl.where(end > tl.max(code, 0), CODES, tl.argmax(code, 0))

    if SLOT == 0:
        tl.store(ended + row, (drawn == CODES).to(tl.int32))
    drawn = tl.minimum(drawn, CODES - 1)
    tl.store(codes + row * FRAME + SLOT, drawn)
    tl.store(seen + drawn, step.to(tl.int32))
    tl.store(tokens + slot, (first_token + drawn).to(tl.int64))
    tl.store(positions + slot, tl.minimum(position + 1, tl.load(limits + 1)))
    if SLOT == FRAME - 1:
        tl.store(frames + slot, frame + 1)
    else:
        _embed(embed, x, squares, first_token + drawn, row, HIDDEN, PARTS, BLOCK)
