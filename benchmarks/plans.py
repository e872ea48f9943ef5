"""Searches the cuts of a decode step's kernels in the whole step: how engine/model/plans.py was chosen.

    python -m benchmarks.plans --rows 16 64 --seconds 120 --quantization fp8

Part after part, every candidate is timed inside a graph of two steps at Orpheus-3B's shape with random weights, the
other parts as they are best so far; what was best alone is often not best beside the others. Kernels are compiled
beforehand, in many processes. Lines for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.cuda import require_cuda
from benchmarks.report import commit
from engine.config import KV_DTYPES, QUANTIZATIONS
from engine.model.backends import Attention
from engine.model.checkpoint import dummy_checkpoint
from engine.model.fused import FusedStep
from engine.model.graphs import GraphLlama, captured
from engine.model.kernels import nvrtc, wgmma
from engine.model.kernels.linear import Tile
from engine.model.kernels.sampling import draw
from engine.model.plans import Plan
from engine.model.slots import Sampling
from engine.model.weights import random_weights

DEVICE = torch.device("cuda")
PARTS = ("down", "attention", "attn_out", "qkv", "gate_up", "head")
CONTEXT = 500
STEPS = 2
SHARES = (56_000, 100_000, 200_000)  # bytes of shared memory that a program's stages may take


@dataclass(frozen=True)
class Kinds:
    """Whether weights, and whether keys and values, have 8 bits."""

    weights: bool
    cache: bool


def candidates(part: str, rows: int, kinds: Kinds) -> Iterator[Any]:
    """What is tried for a part."""
    size = 1 if kinds.weights and part != "head" else 2
    if not nvrtc.unusable(DEVICE):
        yield from _of_hopper(part, rows, kinds)
    if part == "attention":
        splits = (4, 8, 16) if rows == 1 else (2, 4, 8) if rows <= 16 else (1, 2) if rows <= 64 else (1,)
        policy = "evict_first" if rows > 64 else ""
        for split, block, warps, stages in itertools.product(splits, (32, 64, 128), (1, 2, 4, 8), (1, 2, 3)):
            if block >= 8 * warps and not (rows == 1 and (block < 64 or stages > 1)) and block * stages <= 192:
                yield Attention(split, block, warps, stages, policy)
    elif rows == 1 and size == 1:
        yield from _one_fp8(part)
    elif rows == 1:
        block = 2048 if part == "down" else 1024
        for outputs, warps, lead, policy in itertools.product((4, 8, 16), (4, 8, 16), (0, 1), ("", "evict_first")):
            if outputs * block * (2 if part == "gate_up" else 1) <= warps * 2048 and not (part == "qkv" and not lead):
                yield Tile(1, outputs, block, warps, lead=lead, policy=policy)
    else:
        yield from _tiles(part, 16 if rows <= 16 else 64, size)


def _of_hopper(part: str, rows: int, kinds: Kinds) -> Iterator[Any]:
    """Kernels of CUDA C++, which know no 8 bits."""
    if part == "attention" and not kinds.cache:
        splits = (1, 2, 4) if rows <= 16 else (1,)
        for split, warps, stages in itertools.product(splits, (1, 2, 4), (2, 3, 4)):
            if warps * stages <= 12:  # what a multiprocessor's memory holds
                yield Attention(split, warps=warps, stages=stages, grouped=True)
    elif part not in ("attention", "head") and not kinds.weights:
        yield from (wgmma.Cut(splits, part == "qkv") for splits in ((1,) if part == "gate_up" else (1, 2, 3, 4)))


def _one_fp8(part: str) -> Iterator[Tile]:
    """With 256 inputs for each warp, and with half as many; a thread holds up to 64 registers of weights."""
    inputs, high = 8192 if part == "down" else 3072, 2 if part == "gate_up" else 1
    for outputs, warps, lead in itertools.product((4, 8, 16), (4, 8, 16), (0, 1)):
        for block in (256 * warps, 128 * warps):
            fits = inputs <= 4 * block <= 8 * inputs and high * outputs * inputs <= 256 * 32 * warps
            if fits and not (part == "qkv" and not lead):
                yield Tile(1, outputs, block, warps, lead=lead, policy="evict_first")


def _tiles(part: str, high: int, size: int) -> Iterator[Tile]:
    """For weights of `size` bytes, as deep as some shares of a multiprocessor's memory allow."""
    splits = {"attn_out": (1, 2, 4), "down": (1, 2, 4)}.get(part, (1,))
    widths = (16, 32, 64) if high == 16 else (32, 64, 128)  # with many rows narrow tiles read them again and again
    for outputs, block, warps, split in itertools.product(widths, (128, 256), (2, 4) if high == 16 else (4, 8), splits):
        stage = block * (2 * high + size * (2 * outputs if part == "gate_up" else outputs))
        depths = {min(8, share // stage) for share in SHARES}
        yield from (Tile(high, outputs, block, warps, depth, split) for depth in sorted(depths) if depth > 2)


def refined(part: str, cut: Any) -> Iterator[Any]:
    """The same cut, with other depths and other dealings with its neighbours."""
    if isinstance(cut, Tile) and cut.rows > 1:
        for lead, ahead in itertools.product((0, 1, 3), (0, 512, 1024, 2048)):
            if lead or part != "qkv":
                yield replace(cut, lead=lead, ahead=ahead)


def altered(plan: Plan, part: str, cut: Any) -> Plan:
    if part == "attention":
        return replace(plan, attention=cut)
    assert plan.tiles is not None
    return replace(plan, tiles=replace(plan.tiles, **{part: cut}))


class Bench:
    """A model whose step is run by any plan."""

    def __init__(self, rows: int, kinds: Kinds, layers: int | None = None) -> None:
        checkpoint = dummy_checkpoint("orpheus-3b")
        shape = replace(checkpoint.shape, layers=layers or checkpoint.shape.layers)
        weights = random_weights(shape, checkpoint.layout, DEVICE, torch.bfloat16, seed=0, fp8=kinds.weights)
        self.rows = rows
        kept = torch.float8_e4m3fn if kinds.cache else None
        self.model = GraphLlama(shape, weights, checkpoint.layout, rows, CONTEXT + 64, kv_dtype=kept)
        for layer in (*self.model.keys, *self.model.values):
            layer.copy_(torch.randn(layer.shape, device=DEVICE))
        for slot in range(rows):
            self.model.state.start(slot, self.model.layout.first_audio, CONTEXT, Sampling(0.6, 0.9, 0, 1.1, 0, slot))

    def take(self, plan: Plan) -> None:
        model = self.model
        old = model.step
        model.step = FusedStep(
            model.shape, model.weights, model.keys, model.values, old.cos, old.sin, model.state, self.rows, True,
            (plan,), old.attention,
        )  # fmt: skip
        model.step.rows[:] = torch.arange(self.rows, dtype=torch.int32, device=DEVICE)

    @torch.inference_mode()
    def steps(self) -> None:
        model, rows = self.model, self.model.step.rows
        embedding = model.step.embedding(self.rows)
        model.step.enter(self.rows)
        for k in range(STEPS):
            draw(
                model.step.run(self.rows, k), k, model.state, rows, model.limits, embedding, model.codes, model.ended,
                model.layout.first_audio, early=True,
            )  # fmt: skip

    def milliseconds(self, plan: Plan, times: int = 15) -> float:
        """Of a step."""
        self.take(plan)
        graph = captured(self.steps, None)
        taken = []
        for _ in range(3 + times):
            self.model.state.position.fill_(CONTEXT)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            taken.append(begin.elapsed_time(end) / STEPS)
        return statistics.median(taken[3:])


def compile_part(part: int, of: int, names: list[str], rows: list[int], kinds: Kinds) -> None:
    """Runs every `of`-th candidate once, so that its kernels are in the cache of compiled kernels."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - lives as long as the process
    for count in rows:
        bench = Bench(count, kinds, layers=1)
        plan = bench.model.step.plan(count)
        for name in names:
            for cut in list(dict.fromkeys(candidates(name, count, kinds)))[part::of]:
                try:
                    bench.take(altered(plan, name, cut))
                    bench.steps()
                except Exception:  # noqa: BLE001 - a cut that does not fit is no candidate; the search tells
                    continue


class Search:
    """The best plan so far for one number of rows."""

    def __init__(self, rows: int, seconds: float, kinds: Kinds) -> None:
        self.bench, self.kinds, self.until = Bench(rows, kinds), kinds, time.monotonic() + seconds
        self.plan = self.bench.model.step.plan(rows)
        self.first = self.best = self.bench.milliseconds(self.plan)
        print(f"{rows} rows: {self.first:.4f} ms as it is", flush=True)

    def part(self, name: str) -> None:
        """The best of all cuts of a part, then of its refinements."""
        shapes = self._timed(name, candidates(name, self.bench.rows, self.kinds))
        for _, cut in shapes[:2]:
            self._keep_better(name, [*self._timed(name, refined(name, cut)), *shapes][:3])

    def _timed(self, name: str, cuts: Iterator[Any]) -> list[tuple[float, Any]]:
        found = []
        for cut in dict.fromkeys(cuts):
            if time.monotonic() > self.until:
                break
            try:
                found.append((self.bench.milliseconds(altered(self.plan, name, cut), 9), cut))
            except Exception as error:  # noqa: BLE001 - too much shared memory and the like: not a candidate
                print(f"  {name} {cut}: {type(error).__name__}")
        return sorted(found, key=lambda entry: entry[0])

    def _keep_better(self, name: str, found: list[tuple[float, Any]]) -> None:
        """Looks again, longer, at the fastest."""
        for _, cut in found:
            plan = altered(self.plan, name, cut)
            again, now = self.bench.milliseconds(plan, 40), self.bench.milliseconds(self.plan, 40)
            print(f"  {name}: {again:.4f} ms instead of {now:.4f} with {cut}", flush=True)
            if again < now * 0.999:
                self.plan, self.best = plan, again


def search(rows: int, names: list[str], seconds: float, kinds: Kinds) -> dict[str, Any]:
    """Part after part, twice, while there is time."""
    found = Search(rows, seconds, kinds)
    for name in names * 2:
        found.part(name)
    print(f"{rows} rows: {found.first:.4f} -> {found.best:.4f} ms\n  {found.plan}", flush=True)
    return {"rows": rows, "before_ms": found.first, "after_ms": found.best, "plan": str(found.plan)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--seconds", type=float, default=120, help="for each number of rows, compiling not counted")
    parser.add_argument("--quantization", default="none", choices=QUANTIZATIONS)
    parser.add_argument("--kv-dtype", default="auto", choices=KV_DTYPES)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    args = parser.parse_args()
    require_cuda()
    kinds = Kinds(args.quantization == "fp8", args.kv_dtype == "fp8")
    context = multiprocessing.get_context("spawn")
    began = time.perf_counter()
    workers = [
        context.Process(target=compile_part, args=(i, args.processes, args.parts, args.rows, kinds))
        for i in range(args.processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if workers and all(worker.exitcode for worker in workers):
        raise SystemExit("nothing could be compiled: every process of it failed")
    print(f"compiled in {time.perf_counter() - began:.0f} s", flush=True)
    found = [search(rows, args.parts, args.seconds, kinds) for rows in args.rows]
    setting = {"commit": commit(), "device": torch.cuda.get_device_name(), **vars(kinds)}
    print(json.dumps({**setting, "plans": found}))


if __name__ == "__main__":
    main()
