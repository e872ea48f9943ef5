"""How a matrix product is cut into programs, by its size: wide tiles once they fill the card, narrow ones before."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from torch import Tensor

MULTIPROCESSORS = 132  # of an H100 or H200; a card with fewer only gets finer tiles than it would need


@dataclass(frozen=True)
class Tile:
    """Rows, columns and depth of a program's product, and its launch."""

    rows: int
    columns: int
    depth: int
    warps: int = 4
    stages: int = 2


def blocks(tile: Tile, columns: int, depth: int) -> tuple[int, int, int]:
    """The tile cut to powers of two that divide a product of this many columns and this depth."""
    return tile.rows, gcd(tile.columns, columns), gcd(tile.depth, depth)


def pick(kind: str, rows: int, matrix: Tensor) -> Tile:
    """The tile for rows of [.., in] @ matrix [parts, out, in] in a kernel of this kind."""
    if not matrix.is_cuda:
        return Tile(512, 256, 256)  # Triton's interpreter runs programs one by one: few large ones
    outputs = matrix.shape[1]
    columns = min(outputs, 128)
    height = 128 if kind == "unit" and outputs <= 64 and matrix.element_size() == 2 else 64
    while height > 16 and -(-rows // height) * (outputs // columns) < MULTIPROCESSORS:
        height //= 2
    while columns > 32 and -(-rows // height) * (outputs // columns) < MULTIPROCESSORS:
        columns //= 2
    return Tile(height, columns, 32 if kind == "unit" else 64)
