"""The decoder's end: a convolution of seven taps to one channel, tanh, and the sample as a 16-bit integer."""

# Triton's kernels are Python in form only.
# pyright: reportMissingImports=false, reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from engine.model.kernels.chain import begin, launched, wait
from engine.model.kernels.columns import locate
from engine.model.snac_layers import TAPS


@triton.jit(do_not_specialize=["rows", "offset", "source_columns"])
def _output(
    source, samples, pcm, slots, starts, totals, taps, bias, rows, offset, source_columns,
    COLUMNS: tl.constexpr, C: tl.constexpr, TAPS: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.arange(0, BC)
    inside = c < C
    slot, column, end = locate(row, rows, slots, starts, totals, COLUMNS)
    first = column - (TAPS - 1)
    turn = (first + source_columns) % source_columns
    y = tl.zeros((BM, BC), tl.float32)
    wait(EARLY)
    for tap in tl.static_range(TAPS):
        at = turn + tap
        at = tl.where(at >= source_columns, at - source_columns, at)
        heard = (first + tap - offset >= 0) & (first + tap - offset < end)
        place = source + (slot * source_columns + at)[:, None] * C + c[None, :]
        x = tl.load(place, mask=heard[:, None] & inside[None, :], other=0.0).to(tl.float32)
        y += x * tl.load(taps + tap * C + c, mask=inside, other=0.0)[None, :]
    total = tl.sum(y, axis=1) + tl.load(bias)
    # tanh from an exponential that cannot overflow.
    e = tl.exp(-2.0 * tl.abs(total))
    sample = tl.where(total < 0.0, -1.0, 1.0) * (1.0 - e) / (1.0 + e)
    live = row < rows
    tl.store(samples + row, sample, mask=live)
    # Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, as torch.round does.
    tl.store(pcm + row, ((sample * 32767.0 + 12582912.0) - 12582912.0).to(tl.int16), mask=live)


def output(
    source: Tensor, samples: Tensor, pcm: Tensor, slots: Tensor, starts: Tensor, totals: Tensor,
    taps: Tensor, bias: Tensor, columns: int, offset: int, early: bool = False,
) -> None:  # fmt: skip
    """The source ring's last columns to samples float32 [B, columns] and pcm int16 [B, columns]; taps [7, C]."""
    rows = slots.shape[0] * columns
    channels = taps.shape[1]
    block = 64 if source.is_cuda else 1024
    _output[(triton.cdiv(rows, block),)](
        source, samples, pcm, slots, starts, totals, taps, bias, rows, offset, source.shape[1],
        columns, channels, TAPS, block, triton.next_power_of_2(channels), early, num_warps=4,
        **launched(early),
    )  # fmt: skip


def output_reference(window: Tensor, taps: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 [B, 6 + T, C] -> samples float32 [B, T] and pcm int16 [B, T]."""
    y = F.conv1d(window.transpose(1, 2), taps.T[None], bias)[:, 0]
    samples = torch.tanh(y)
    return samples, (samples * 32767.0).round().to(torch.int16)
