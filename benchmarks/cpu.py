"""Times the two models of the demo voice on the CPU, one thread each: plain torch beside the native kernels.

    python -m benchmarks.cpu --streams 1 4 16

Milliseconds of processor time: a token of the language model for the whole batch, and a frame (85 ms of audio) of the
codec for one stream; medians. A table for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.report import print_document, print_table
from engine.config import EngineConfig
from engine.model.runner import ModelRunner
from engine.model.slots import Sampling
from engine.model.snac import NO_END
from engine.prompt import FRAME_TOKENS

WARM_UP = 3
TEXT = "The weather is lovely today, is it not?"


def median_ms(action: Callable[[], Any], times: int) -> float:
    """Median processor time of `action`, in milliseconds."""
    taken = []
    for _ in range(WARM_UP + times):
        began = time.process_time()
        action()
        taken.append(1000 * (time.process_time() - began))
    return statistics.median(taken[WARM_UP:])


def measure(kernel: str, streams: int, frames: int) -> dict[str, Any]:
    runner = ModelRunner(EngineConfig(device="cpu", cpu_kernel=kernel, cpu_threads=1, max_concurrency=streams))
    ids = runner.prompt(runner.checkpoint.voices[0], TEXT).prompt
    slots = list(range(streams))
    for slot in slots:
        runner.model.prefill(slot, ids[:-1])
        runner.model.state.start(slot, ids[-1], len(ids) - 1, Sampling(0.6, 0.9, 0, 1.0, 0, slot))
        runner.codec.reset(slot)
    length = len(ids) + FRAME_TOKENS * (WARM_UP + frames + 1)
    frame = median_ms(lambda: runner.model.decode_frame(slots, length, 10**6), frames)
    codes = torch.randint(0, 4096, (1, 1, FRAME_TOKENS), dtype=torch.int32)
    codec = median_ms(lambda: runner.codec.decode([0], codes, [3], [NO_END], [0]), frames)
    return {
        "kernel": kernel,
        "streams": streams,
        "token_ms": round(frame / FRAME_TOKENS, 2),
        "codec_frame_ms": round(codec, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--frames", type=int, default=30)
    args = parser.parse_args()
    rows = [measure(kernel, streams, args.frames) for kernel in ("torch", "native") for streams in args.streams]
    print_table(rows)
    print_document(rows, torch=torch.__version__)


if __name__ == "__main__":
    main()
