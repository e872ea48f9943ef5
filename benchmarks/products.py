"""Times the matrix products of a decode step, tile by tile, beside the library's: how engine/model/fused.py was tuned.

    python -m benchmarks.products --rows 1 16 64

Microseconds a product with everything that surrounds it, in a graph over as many layers' weights as leave no cache
warm. A table for people, best first; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cuda import require_cuda
from engine.model.kernels.linear import Normed, Scratch, Tile, linear, linear_add, parts
from engine.model.kernels.norm import gate, rms_norm

LAYERS = 28
EPS = 1e-5
# Orpheus-3B's: outputs, inputs, what surrounds the product.
PRODUCTS = {
    "qkv": (5120, 3072, "norm"),
    "attn_out": (3072, 3072, "add"),
    "gate_up": (8192, 3072, "gated"),
    "down": (3072, 8192, "add"),
}


def tiles(name: str, rows: int) -> Iterator[Tile]:
    """What is tried for a product."""
    _, inputs, kind = PRODUCTS[name]
    splits = {"add": (1, 2, 4, 8), "norm": (1, 2), "gated": (1,)}[kind]
    if rows == 1:
        for outputs, warps, lead in itertools.product((4, 8, 16), (4, 8), (0, 1)):
            yield Tile(1, outputs, max(1024, inputs // 4), warps, lead=lead, policy="evict_first")
    if rows <= 16:
        yield from _few(kind, splits)
        return
    for high, outputs, block, split in itertools.product((64, 128), (32, 64, 128), (64, 128), splits):
        width = 2 * outputs if kind == "gated" else outputs
        stages = min(5, 220_000 // (2 * block * (width + high)))
        if high <= rows and stages >= 3 and width * high <= 128 * 256:
            yield Tile(high, outputs, block, 8 if width * high > 64 * 64 else 4, stages, split, ahead=512)


def _few(kind: str, splits: tuple[int, ...]) -> Iterator[Tile]:
    for outputs, block, warps, split in itertools.product((16, 32, 64), (128, 256), (2, 4), splits):
        width = 2 * outputs if kind == "gated" else outputs
        if warps == 2 and width > 32:
            continue
        for shared, ahead in itertools.product((36_000, 75_000), (0, 512)):
            stages = min(6, shared // (2 * block * (width + 16)))
            if stages >= 2:
                yield Tile(16, outputs, block, warps, stages, split, ahead=ahead)


class Product:
    """One product's weights, its inputs and outputs."""

    def __init__(self, name: str, rows: int, layers: int) -> None:
        outputs, inputs, self.kind = PRODUCTS[name]
        self.name = name
        bf16 = {"dtype": torch.bfloat16, "device": "cuda"}
        height = 2 * outputs if self.kind == "gated" else outputs
        self.weights = [torch.randn(height, inputs, **bf16) * 0.02 for _ in range(layers)]
        self.x, self.norm = torch.randn(rows, inputs, **bf16), torch.ones(inputs, **bf16)
        self.normed = torch.empty_like(self.x)
        self.out = torch.zeros(rows, outputs, **bf16)
        self.both = torch.empty(rows, height, **bf16)
        self.normed_out, self.gain = torch.empty_like(self.out), torch.ones(outputs, **bf16)
        self.squares = torch.ones(1024, 256, device="cuda")
        self.scratch = Scratch.on(torch.device("cuda"), rows * outputs * 8, 4096)

    def fused(self, tile: Tile, weight: Tensor) -> None:
        common = {"scratch": self.scratch, "early": True}
        if self.kind == "add":
            normed = Normed(self.normed_out, self.squares[: parts(self.out.shape[1], tile)])
            linear_add(self.x, weight, self.out, self.gain, normed, tile, **common)
        else:
            linear(
                Normed(self.x, self.squares[:96]), weight, self.out, tile, eps=EPS, gated=self.kind == "gated", **common
            )

    def library(self, weight: Tensor) -> None:
        if self.kind == "add":
            torch.addmm(self.out, self.x, weight.t(), out=self.out)
            return
        rms_norm(self.x, self.norm, EPS, self.normed)
        if self.kind == "gated":
            torch.mm(self.normed, weight.t(), out=self.both)
            gate(self.both, self.out)
        else:
            torch.mm(self.normed, weight.t(), out=self.out)

    def bare(self, weight: Tensor) -> None:
        F.linear(self.x, weight)


def microseconds(action: Callable[[Tensor], None], weights: list[Tensor]) -> float:
    """Of one call, among calls on other weights, in a graph."""
    action(weights[0])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for weight in weights:
            action(weight)
    taken = []
    for _ in range(12):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(1000 * begin.elapsed_time(end) / len(weights))
    return statistics.median(taken[2:])


def compile_part(part: int, of: int, names: list[str], rows: list[int]) -> None:
    """Runs every `of`-th tile once, so that its kernel is in the cache of compiled kernels."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - lives as long as the process
    for name in names:
        for count in rows:
            product = Product(name, count, 1)
            for tile in list(dict.fromkeys(tiles(name, count)))[part::of]:
                product.fused(tile, product.weights[0])


def measure(name: str, rows: int) -> list[tuple[float, str]]:
    product = Product(name, rows, LAYERS)
    found = [
        (microseconds(product.library, product.weights), "library, whole"),
        (microseconds(product.bare, product.weights), "library, bare"),
    ]
    for tile in dict.fromkeys(tiles(name, rows)):
        time = microseconds(lambda w, tile=tile: product.fused(tile, w), product.weights)
        found.append((time, str(tile)))
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--product", nargs="+", default=list(PRODUCTS), choices=list(PRODUCTS))
    parser.add_argument("--best", type=int, default=8)
    parser.add_argument("--processes", type=int, default=14)
    args = parser.parse_args()
    require_cuda()
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=compile_part, args=(i, args.processes, args.product, args.rows))
        for i in range(args.processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    result = {}
    for name in args.product:
        outputs, inputs, kind = PRODUCTS[name]
        for rows in args.rows:
            found = measure(name, rows)
            mb = 2 * outputs * inputs * (2 if kind == "gated" else 1) / 1e6
            print(f"{name} {rows} rows, {mb:.1f} MB, {mb / 4.26:.1f} us at 4.26 TB/s")
            for time, what in found[: args.best] + [f for f in found[args.best :] if f[1].startswith("library")]:
                print(f"  {time:7.2f}  {what}")
            result[f"{name} {rows}"] = found
    print(json.dumps(result))


if __name__ == "__main__":
    main()
