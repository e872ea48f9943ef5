"""y = x W^T for few rows: weights stream through once, what surrounds the product happens inside the kernel.

A row's result depends on that row alone, and on the tile, never on how many rows there are.
"""

# Triton is not everywhere where types are checked, and what its decorator makes of a function has no types.
# pyright: reportArgumentType=false, reportReturnType=false
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from engine.model.fp8 import Fp8Matrix, Matrix, plain
from engine.model.kernels.cast import cast
from engine.model.kernels.chain import begin, begin_if, launched, prefetch, wait
from engine.model.kernels.single import single

CACHE_LINE = 128  # bytes of a cache line


@dataclass(frozen=True)
class Tile:
    """How a product is cut: rows, outputs and inputs a program takes at a time; `splits` programs share the inputs.

    The next kernel is let in `lead` turns before a program's last one (0: when it starts). Of each weight row `ahead`
    inputs are asked for before the previous kernel has finished. rows = 1 is engine.model.kernels.single.
    """

    rows: int = 16
    outputs: int = 32
    inputs: int = 128
    warps: int = 4
    stages: int = 4
    splits: int = 1
    lead: int = 1
    ahead: int = 0
    policy: str = ""


@dataclass
class Scratch:
    """What programs that share an output leave for one another: float32 partial sums and int32 counts (zero)."""

    partial: Tensor
    arrived: Tensor

    @classmethod
    def on(cls, device: torch.device, partials: int, counters: int) -> Scratch:
        """`partials` float32 values and `counters` counters."""
        return cls(
            torch.empty(partials, dtype=torch.float32, device=device),
            torch.zeros(counters, dtype=torch.int32, device=device),
        )


@dataclass
class Normed:
    """An RMS norm that whoever writes a row begins and whoever reads it completes.

    The normed row is `values` [M, K] over the root of the row's mean square, whose sum lies in `squares`, float32
    [M, parts], in parts. The norm's weight is in the matrices that read it: see LlamaWeights.fold_norms.
    """

    values: Tensor
    squares: Tensor

    def complete(self, eps: float) -> Tensor:
        """The normed rows, float32."""
        mean = self.squares.sum(1) / self.values.shape[1]
        return self.values.float() * torch.rsqrt(mean + eps)[:, None]


def linear(
    x: Tensor | Normed, weight: Matrix, out: Tensor, tile: Tile, *, eps: float = 0.0, gated: bool = False,
    scratch: Scratch | None = None, early: bool = False,
) -> None:  # fmt: skip
    """out [M, N] = x [M, K] times weight^T. `gated`: weight holds gate and up rows, [2N, K]; out = silu(gate) * up."""
    values = x.values if isinstance(x, Normed) else x
    squares = x.squares if isinstance(x, Normed) else None
    _launch(values, squares, weight, out, None, tile, eps, gated, scratch, early)


def linear_add(
    x: Tensor, weight: Matrix, out: Normed, tile: Tile, *, scratch: Scratch | None = None, early: bool = False
) -> None:
    """out's values [M, N] += x [M, K] times weight^T, and their squares' sums into its squares."""
    assert out.squares.shape[1] == parts(out.values.shape[1], tile), (out.squares.shape, tile)
    _launch(x, None, weight, out.values, out.squares, tile, 0.0, False, scratch, early)


def linear_reference(x: Tensor | Normed, weight: Matrix, *, eps: float = 0.0, gated: bool = False) -> Tensor:
    """`linear` in torch, float32."""
    y = (x.complete(eps) if isinstance(x, Normed) else x.float()) @ plain(weight, torch.float32).T
    if not gated:
        return y
    first, second = y.chunk(2, dim=-1)
    return F.silu(first) * second


class Cutting(Protocol):
    """A cut by which a program makes `outputs`."""

    @property
    def outputs(self) -> int: ...


def parts(outputs: int, tile: Cutting) -> int:
    """In how many parts `linear_add` leaves a row's sum of squares."""
    return triton.cdiv(outputs, tile.outputs)


def _launch(
    x: Tensor, squares: Tensor | None, weight: Matrix, out: Tensor, next_squares: Tensor | None, tile: Tile,
    eps: float, gated: bool, scratch: Scratch | None, early: bool,
) -> None:  # fmt: skip
    rows, inputs = x.shape
    outputs = out.shape[1]
    assert weight.shape == (outputs * (2 if gated else 1), inputs), (weight.shape, out.shape, x.shape)
    assert tile.splits == 1 or (scratch is not None and not gated)
    matrix, scales = (weight.values, weight.scale) if isinstance(weight, Fp8Matrix) else (weight, None)
    if tile.rows == 1:
        assert rows == 1
        block = max(tile.inputs, triton.next_power_of_2(triton.cdiv(inputs, 4)))
        single[(parts(outputs, tile),)](
            x, squares, matrix, scales, out, next_squares, eps,
            N=outputs, K=inputs, BN=tile.outputs, BK=block, PARTS=squares.shape[1] if squares is not None else 0,
            GATED=gated, ADD=next_squares is not None, LATE=tile.lead > 0, POLICY=tile.policy,
            EARLY=early, num_warps=tile.warps, num_stages=1, **launched(early),
        )  # fmt: skip
        return
    splits = tile.splits if inputs % tile.splits == 0 else 1
    grid = (parts(outputs, tile), splits, triton.cdiv(rows, tile.rows))
    _linear[grid](
        x, squares, matrix, scales, out, next_squares,
        scratch.partial if scratch else None, scratch.arrived if scratch else None, rows, eps,
        N=outputs, K=inputs, BM=tile.rows, BN=tile.outputs, BK=tile.inputs, SPLITS=splits,
        PARTS=squares.shape[1] if squares is not None else 0, GATED=gated,
        ADD=next_squares is not None, LEAD=tile.lead, POLICY=tile.policy, EARLY=early,
        LINES=_lines(min(tile.ahead, inputs // splits) * matrix.element_size()) if early else 0,
        LINE=CACHE_LINE // matrix.element_size(), num_warps=tile.warps, num_stages=_stages(tile, gated, x, matrix),
        **launched(early),
    )  # fmt: skip


def _stages(tile: Tile, gated: bool, x: Tensor, weight: Tensor) -> int:
    """As many as the tile asks for and the device's shared memory holds."""
    if not x.is_cuda:
        return tile.stages
    room = torch.cuda.get_device_properties(x.device).shared_memory_per_block_optin
    outputs = tile.outputs * (2 if gated else 1)
    stage = tile.inputs * (x.element_size() * tile.rows + weight.element_size() * outputs)
    if weight.dtype != x.dtype:
        # One tile of weights lies there once more, in the type of x.
        room -= tile.inputs * x.element_size() * outputs
    return max(1, min(tile.stages, room // stage))


def _lines(size: int) -> int:
    """Cache lines that hold `size` bytes, at most, as a power of two."""
    return 1 << ((size // CACHE_LINE).bit_length() - 1) if size >= CACHE_LINE else 0


@triton.jit(do_not_specialize=["rows"])
def _linear(  # noqa: C901 - its branches are taken when it is compiled
    x, squares, weight, scales, out, next_squares, partial, arrived, rows, eps,
    N: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLITS: tl.constexpr,
    PARTS: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr, LEAD: tl.constexpr, LINES: tl.constexpr,
    LINE: tl.constexpr, POLICY: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    SHARE: tl.constexpr = K // SPLITS
    if LEAD == 0:
        begin(EARLY)
    split = tl.program_id(1)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    m = tl.program_id(2) * BM + tl.arange(0, BM)
    first = split * SHARE
    # Rows past the end repeat the last one: their sums are not stored.
    row = tl.minimum(n, N - 1).to(tl.int64) * K + first
    k = tl.arange(0, BK)
    at_x = x + m[:, None].to(tl.int64) * K + first + k[None, :]
    at_w = weight + row[:, None] + k[None, :]
    in_rows = (m < rows)[:, None]
    if LINES > 0:
        line = row[:, None] + (tl.arange(0, LINES) * LINE)[None, :]
        prefetch(weight + line)
        if GATED:
            prefetch(weight + N * K + line)
    wait(EARLY)
    target = m[:, None].to(tl.int64) * N + n[None, :]
    kept = in_rows & (n < N)[None, :]
    # Asked for here, so that nobody waits for them after the loop; where they are many, registers are dearer.
    if (PARTS > 0) & (BM <= 16):
        square = _squares(squares, m, rows, PARTS)
    if ADD:
        own = tl.load(out + target, mask=kept, other=0.0)
    total, second = _product(at_x, at_w, in_rows, k, N * K, SHARE, BM, BN, BK, GATED, LEAD, POLICY, EARLY)
    if SPLITS > 1:
        counter = arrived + tl.program_id(0) * tl.num_programs(2) + tl.program_id(2)
        last, total = _gathered(total, partial + target, kept, rows * N, split, counter, SPLITS)
        if not last:
            return
    if scales is not None:
        total *= tl.load(scales + n, mask=n < N, other=0.0)[None, :]
        if GATED:
            second *= tl.load(scales + N + n, mask=n < N, other=0.0)[None, :]
    if PARTS > 0:
        if BM > 16:
            square = _squares(squares, m, rows, PARTS)
        scale = tl.rsqrt(tl.sum(square, 0) / K + eps)[:, None]
        total *= scale
        second *= scale
    if GATED:
        total = total / (1.0 + tl.exp(-total)) * second
    if ADD:
        total += own.to(tl.float32)
    rounded = total.to(out.dtype.element_ty)
    tl.store(out + target, rounded, mask=kept)
    if ADD:
        wide = tl.where(kept, rounded.to(tl.float32), 0.0)
        part = next_squares + m * tl.num_programs(0) + tl.program_id(0)
        tl.store(part, tl.sum(wide * wide, 1), mask=m < rows)


@triton.jit
def _gathered(total, at, kept, size, split, counter, SPLITS: tl.constexpr):
    """Leaves a share of the sums; -> whether it was the last to arrive, and then all shares' sum, in a fixed order.

    The counter is left as it was.
    """
    tl.store(at + split.to(tl.int64) * size, total, mask=kept)
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1) == SPLITS - 1
    if last:
        tl.store(counter, 0)
        total = tl.zeros_like(total)
        for s in tl.static_range(SPLITS):
            total += tl.load(at + s * size, mask=kept, other=0.0, cache_modifier=".cg")
    return last, total


@triton.jit
def _squares(squares, m, rows, PARTS: tl.constexpr):
    """The parts of the rows' sums of squares, [parts, BM]."""
    p = tl.arange(0, triton.next_power_of_2(PARTS))[:, None]
    return tl.load(squares + m[None, :] * PARTS + p, mask=(p < PARTS) & (m < rows)[None, :], other=0.0)


@triton.jit
def _product(
    at_x, at_w, in_rows, k, GAP: tl.constexpr, SHARE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, GATED: tl.constexpr, LEAD: tl.constexpr, POLICY: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A tile's sums, [BM, BN] float32, and with GATED those of the rows GAP further on; else zeros."""
    TURNS: tl.constexpr = (SHARE + BK - 1) // BK
    total = tl.zeros((BM, BN), dtype=tl.float32)
    second = tl.zeros((BM, BN), dtype=tl.float32)
    for start in tl.range(0, SHARE, BK):
        inside = (start + k < SHARE)[None, :]
        a = tl.load(at_x + start, mask=in_rows & inside, other=0.0)
        w = tl.load(at_w + start, mask=inside, other=0.0, eviction_policy=POLICY)
        if LEAD > 0:
            begin_if(start == (TURNS - LEAD if TURNS > LEAD else 0) * BK, EARLY)
        total = tl.dot(a, tl.trans(cast(w, a.dtype)), total, input_precision="ieee")
        if GATED:
            u = tl.load(at_w + GAP + start, mask=inside, other=0.0, eviction_policy=POLICY)
            second = tl.dot(a, tl.trans(cast(u, a.dtype)), second, input_precision="ieee")
    return total, second
