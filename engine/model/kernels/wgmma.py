"""y = x W^T for up to some hundred rows on Hopper GPUs, in bf16: wgmma.cu on the host's side.

The same as engine.model.kernels.linear, whose tiles read a batch's rows again and again. A row's result depends on that
row alone and on the number of splits, never on how many rows there are.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.model.fp8 import Matrix
from engine.model.kernels.linear import Normed, parts
from engine.model.kernels.nvrtc import Kernel, constants, pointer, tensor_map

WEIGHT_ROWS = 128  # of a program
DEPTH = 64  # inputs of a stage
MOST_ROWS = 256  # of a program
STEP = 8  # rows, to a multiple of which a batch is padded
THREADS = 320
HEADER = 3072  # bytes before the stages, with what aligns them
STORE, GATED, ADD = range(3)

_SOURCE = Path(__file__).with_suffix(".cu").read_text()


@dataclass(frozen=True)
class Cut:
    """How a product is cut: `splits` programs share the inputs of 128 weight rows, where it has no gates.

    `late`: the next kernel is let in when the last one has finished, else when this one starts.
    """

    splits: int = 1
    late: bool = False

    @property
    def outputs(self) -> int:
        """A program's, where they are not gated: see engine.model.kernels.linear.parts."""
        return WEIGHT_ROWS


def product(
    x: Tensor | Normed, weight: Matrix, out: Tensor, cut: Cut, *, eps: float = 0.0, gated: bool = False,
    norms: Tensor | None = None, early: bool = False,
) -> None:  # fmt: skip
    """out [M, N] = x [M, K] times weight^T. `gated`: weight holds gate and up rows, [2N, K]; out = silu(gate) * up.

    With `norms`, float32 [M], each row of x is taken times its own.
    """
    values, pieces = (x.values, x.squares.shape[1]) if isinstance(x, Normed) else (x, 0)
    norms = x.squares if isinstance(x, Normed) else norms
    _launch(GATED if gated else STORE, values, norms, pieces, weight, out, None, cut, eps, early)


def product_add(x: Tensor, weight: Matrix, out: Normed, cut: Cut, *, early: bool = False) -> None:
    """out's values [M, N] += x [M, K] times weight^T, and their squares' sums into its squares."""
    assert out.squares.shape[1] == parts(out.values.shape[1], cut), (out.squares.shape, cut)
    _launch(ADD, x, None, 0, weight, out.values, out.squares, cut, 0.0, early)


def fits(weight: Matrix) -> bool:
    """Whether a weight can be cut."""
    return (
        isinstance(weight, Tensor) and weight.dtype == torch.bfloat16 and weight.is_contiguous()
        and weight.shape[0] % WEIGHT_ROWS == 0 and weight.shape[1] % DEPTH == 0
    )  # fmt: skip


def padded(rows: int) -> tuple[int, int]:
    """Of how many rows a program's tile is for a batch, and how many such tiles there are."""
    tiles = -(-rows // MOST_ROWS)
    return -(-rows // (tiles * STEP)) * STEP, tiles


def _launch(
    mode: int, x: Tensor, norms: Tensor | None, pieces: int, weight: Matrix, out: Tensor, squares: Tensor | None,
    cut: Cut, eps: float, early: bool,
) -> None:  # fmt: skip
    rows, inputs = x.shape
    outputs = out.shape[1]
    assert weight.shape == (outputs * (2 if mode == GATED else 1), inputs), (weight.shape, out.shape, x.shape)
    assert isinstance(weight, Tensor)
    assert fits(weight)
    assert x.is_contiguous()
    assert out.is_contiguous()
    high, batches = padded(rows)
    _kernel(high, mode, cut, x.device).launch(
        (weight.shape[0] // WEIGHT_ROWS, cut.splits, batches), early,
        _weights(weight, mode == GATED), _tiles(x, high), *map(pointer, (out, norms, squares)),
        *map(ctypes.c_int, (rows, outputs, inputs, pieces)), ctypes.c_float(eps), cluster=cut.splits,
    )  # fmt: skip


@cache
def _kernel(rows: int, mode: int, cut: Cut, device: torch.device) -> Kernel:
    room = torch.cuda.get_device_properties(device).shared_memory_per_block_optin - HEADER
    stages = room // stage_bytes(rows)
    return Kernel(source(rows, mode, cut, stages), "product", THREADS, HEADER + stages * stage_bytes(rows))


def stage_bytes(rows: int) -> int:
    """Of shared memory for 64 inputs of a program's weight rows and of `rows` rows of the batch."""
    return DEPTH * 2 * (WEIGHT_ROWS + rows)


def source(rows: int, mode: int, cut: Cut, stages: int) -> str:
    """CUDA C++ of the product of so many rows, with `stages` of 64 inputs on their way at a time."""
    # Sums and what becomes of them lie where the stages were.
    width, completed = (64 if mode == GATED else 128) + 4, -(-rows // 8 // cut.splits)
    kept = 512 * rows if cut.splits > 1 else 0
    assert 32 * width * completed + kept <= stages * stage_bytes(rows), (rows, cut)
    fixed = constants(N=rows, MODE=mode, SPLITS=cut.splits, STAGES=stages, LATE=int(cut.late))
    return fixed + _mma(rows) + _SOURCE


def _mma(rows: int) -> str:
    """The tensor cores' instruction for 64 weight rows, so many rows of the batch and 16 inputs."""
    registers = range(rows // 2)
    sums = ", ".join(f'"+f"(d[{i // 4}][{i % 4}])' for i in registers)
    return f"""
__device__ __forceinline__ void mma(float (&d)[N / 8][4], unsigned long long a, unsigned long long b) {{
    asm volatile("wgmma.mma_async.sync.aligned.m64n{rows}k16.f32.bf16.bf16 "
                 "{{{", ".join(f"%{i}" for i in registers)}}}, %{rows // 2}, %{rows // 2 + 1}, 1, 1, 1, 0, 0;"
                 : {sums} : "l"(a), "l"(b));
}}
"""


def _tiles(matrix: Tensor, rows: int) -> Any:
    """Tiles of `rows` rows of a matrix [M, K] and 64 inputs."""
    high, inputs = matrix.shape
    return tensor_map(matrix.data_ptr(), (inputs, high), (inputs,), (DEPTH, rows))


def _weights(matrix: Tensor, gated: bool) -> Any:
    """Tiles of 128 rows; of a matrix [2N, K] eight gate rows and the eight up rows of the same outputs in turns."""
    high, inputs = matrix.shape
    if not gated:
        return _tiles(matrix, WEIGHT_ROWS)
    sizes, strides = (inputs, 8, 2, high // 16), (inputs, high // 2 * inputs, 8 * inputs)
    return tensor_map(matrix.data_ptr(), sizes, strides, (DEPTH, 8, 2, 8))
