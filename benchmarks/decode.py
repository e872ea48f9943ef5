"""Times the language model's decode step on CUDA, at a named shape with random weights.

    python -m benchmarks.decode --batch 1 16 64 256 --context 500 --kernel triton torch
    python -m benchmarks.decode --batch 1 16 64 256 --kernel triton --attention triton flash sdpa

Milliseconds a token for the whole batch, a frame's time over seven, sampling included, medians, the positions around
`--context`. `step_ms`: frame after frame, each launched before the last has landed, as the server does it (with plain
torch, whose host is slower than the device, one after the other). `lone_ms`: one frame from its launch to its landing.
The limit is what the bytes and operations take at the card's own speed: weights (or operations, whichever takes longer;
8-bit ones with `--quantization fp8`) and then keys and values. A table for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from benchmarks.cuda import require_cuda
from benchmarks.report import print_document, print_table
from engine.config import KV_DTYPES, QUANTIZATIONS
from engine.model.checkpoint import dummy_checkpoint
from engine.model.fp8 import Fp8Matrix
from engine.model.graphs import GraphLlama
from engine.model.library import Rows8, product
from engine.model.llama import TorchLlama
from engine.model.slots import Sampling
from engine.model.weights import LlamaShape, LlamaWeights, random_weights
from engine.prompt import FRAME_TOKENS

DEVICE = torch.device("cuda")
NEVER = 10**6  # frames before speech may end


def copy_speed() -> float:
    """Bytes a second of a device copy, read and written."""
    source = torch.empty(2**31, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    return 2 * source.numel() / min(timed(lambda: target.copy_(source), lambda: None, 10))


def product_speed(fp8: bool) -> float:
    """Operations a second of a large product of bf16, or of 8 bits."""
    a = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    if not fp8:
        return 2 * 8192**3 / statistics.median(timed(lambda: a @ a, lambda: None, 10))
    rows, matrix = Rows8.of(a), Fp8Matrix.of(a)
    return 2 * 8192**3 / statistics.median(timed(lambda: product(rows, matrix, a), lambda: None, 10))


def timed(action: Callable[[], Any], prepare: Callable[[], Any], times: int) -> list[float]:
    """Seconds on the device of each run after three for warming up."""
    taken = []
    for _ in range(3 + times):
        prepare()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        action()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1000)
    return taken[3:]


def limit(
    shape: LlamaShape, batch: int, context: int, weights: LlamaWeights, kv_bytes: int, copy: float, speed: float
) -> float:
    """Seconds that a step takes at least: every weight and every cached key and value is read once."""
    read = [matrix for layer in weights.layers for matrix in vars(layer).values()] + [weights.head[0]]
    size = sum(matrix.nbytes for matrix in read)
    operations = 2 * batch * sum(matrix.numel() for matrix in read)
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * kv_bytes * batch * context
    return max(size / copy, operations / speed) + cache / copy


def start(model: GraphLlama | TorchLlama, batch: int, context: int) -> Callable[[], Any]:
    """Puts `batch` streams at `context`; -> what puts them back there."""
    for layer in (*model.keys, *model.values):
        layer.copy_(torch.randn(layer.shape, device=DEVICE))
    for slot in range(batch):
        model.state.start(slot, model.layout.first_audio, context, Sampling(0.6, 0.9, 0, 1.1, 0, slot))
    return lambda: model.state.position[:batch].fill_(context - FRAME_TOKENS // 2)


def in_a_row(model: GraphLlama, slots: list[int], back: Callable[[], Any], times: int) -> list[float]:
    """Seconds from the end of one frame to the end of the next, with one more always launched ahead."""
    ends, flight = [], None
    for _ in range(4 + times):
        back()
        last, flight = flight, model.launch(slots, NEVER)
        ends.append(torch.cuda.Event(enable_timing=True))
        ends[-1].record()
        if last is not None:
            last.land()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1000 for a, b in pairwise(ends[3:])]


def measure(model: GraphLlama | TorchLlama, batch: int, context: int, times: int) -> dict[str, Any]:
    back = start(model, batch, context)
    slots = list(range(batch))
    lone = timed(lambda: model.decode_frame(slots, context + 2 * FRAME_TOKENS, NEVER), back, times)
    steps = in_a_row(model, slots, back, times) if isinstance(model, GraphLlama) else lone
    return {
        "kernel": model.name,
        "attention": model.attention,
        "batch": batch,
        "context": context,
        "step_ms": round(1000 * statistics.median(steps) / FRAME_TOKENS, 3),
        "lone_ms": round(1000 * statistics.median(lone) / FRAME_TOKENS, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="orpheus-3b")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--context", type=int, nargs="+", default=[500])
    parser.add_argument("--kernel", nargs="+", default=["triton"], choices=["triton", "torch"])
    parser.add_argument(
        "--attention", nargs="+", default=["triton"], choices=["triton", "flash", "sdpa"], help="of the kernel triton"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--quantization", default="none", choices=QUANTIZATIONS)
    parser.add_argument("--kv-dtype", default="auto", choices=KV_DTYPES)
    parser.add_argument("--frames", type=int, default=30)
    args = parser.parse_args()
    require_cuda()
    checkpoint, dtype = dummy_checkpoint(args.model), getattr(torch, args.dtype)
    fp8 = args.quantization == "fp8"
    copy, speed = copy_speed(), product_speed(fp8)
    weights = random_weights(checkpoint.shape, checkpoint.layout, DEVICE, dtype, seed=0, fp8=fp8)
    kv_dtype = torch.float8_e4m3fn if args.kv_dtype == "fp8" else dtype
    room = max(args.context) + 64
    rows = []
    builds = [partial(GraphLlama, attention=name) for name in args.attention] if "triton" in args.kernel else []
    builds += [TorchLlama] if "torch" in args.kernel else []
    for build in builds:
        began = time.perf_counter()
        model = build(checkpoint.shape, weights, checkpoint.layout, max(args.batch), room, kv_dtype=kv_dtype)
        for batch in args.batch:
            for context in args.context:
                row = measure(model, batch, context, args.frames if isinstance(model, GraphLlama) else 5)
                least = 1000 * limit(checkpoint.shape, batch, context, weights, kv_dtype.itemsize, copy, speed)
                rows.append({**row, "limit_ms": round(least, 3), "share": round(least / row["step_ms"], 3)})
        taken = f"{time.perf_counter() - began:.1f} s with graphs, compiling and measuring"
        print(f"{model.name}, {model.attention} attention: {taken}")
        del model
        torch.cuda.empty_cache()
    print_table(rows)
    device = {"name": torch.cuda.get_device_name(), "copy_tb_s": copy / 1e12, "product_tflop_s": speed / 1e12}
    kinds = {"dtype": args.dtype, "quantization": args.quantization, "kv_dtype": args.kv_dtype}
    print_document(rows, model=args.model, torch=torch.__version__, device=device, **kinds)


if __name__ == "__main__":
    main()
