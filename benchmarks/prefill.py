"""Times the prefill of prompts on CUDA, at a named shape with random weights.

    python -m benchmarks.prefill --tokens 32 64 128 256 --times 30

Milliseconds, medians: `device_ms` between two events around the call, `wall_ms` from the call until the keys and values
are in the slot, `frame_ms` the same with the first frame behind it. (The server lets that frame read short prompts
itself.) A prompt runs at the size above its own, so each size is measured full. `limit_ms`: the weights read once at
the card's copy speed, or the operations at its speed of multiplication, whichever takes longer. A table; the last line
is one JSON document.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.cuda import medians, require_cuda
from benchmarks.decode import DEVICE, NEVER, copy_speed, product_speed
from benchmarks.report import print_document, print_table
from engine.model.checkpoint import dummy_checkpoint
from engine.model.graphs import GraphLlama
from engine.model.slots import Sampling
from engine.model.weights import LlamaShape, random_weights

SAMPLING = Sampling(0.6, 0.9, 0, 1.1, 0, 0)


def limit(shape: LlamaShape, tokens: int, size: int, copy: float, product: float) -> float:
    """Seconds that a prompt takes at least; the last layer needs its keys and values only."""
    heads = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    whole = shape.hidden * (heads + 3 * shape.intermediate)
    last = shape.hidden * 2 * shape.kv_heads * shape.head_dim
    weights = (shape.layers - 1) * whole + last
    return max(weights * size / copy, 2 * weights * tokens / product)


def measure(model: GraphLlama, tokens: int, times: int) -> dict[str, Any]:
    ids = list(range(tokens))

    def prompt() -> None:
        model.prefill(0, ids)

    def first_frame() -> None:
        model.prefill(0, ids)
        model.state.start(0, model.layout.first_audio, tokens, SAMPLING)
        model.launch([0], NEVER).land()

    device, wall = medians(prompt, times)
    _, frame = medians(first_frame, times)
    return {
        "tokens": tokens,
        "device_ms": round(device, 3),
        "wall_ms": round(wall, 3),
        "frame_ms": round(frame, 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="orpheus-3b")
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--times", type=int, default=30)
    args = parser.parse_args(arguments)
    require_cuda()
    checkpoint = dummy_checkpoint(args.model)
    copy, product = copy_speed(), product_speed(fp8=False)
    weights = random_weights(checkpoint.shape, checkpoint.layout, DEVICE, torch.bfloat16, seed=0)
    model = GraphLlama(checkpoint.shape, weights, checkpoint.layout, 1, max(args.tokens) + 64)
    rows = []
    for tokens in args.tokens:
        row = measure(model, tokens, args.times)
        least = 1000 * limit(checkpoint.shape, tokens, weights.embed.element_size(), copy, product)
        rows.append({**row, "limit_ms": round(least, 3), "share": round(least / row["device_ms"], 3)})
    print_table(rows)
    device = {"name": torch.cuda.get_device_name(), "copy_tb_s": copy / 1e12, "product_tflop_s": product / 1e12}
    print_document(rows, model=args.model, torch=torch.__version__, device=device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
