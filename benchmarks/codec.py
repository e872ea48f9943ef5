"""Times the codec's decode on CUDA, at SNAC-24k's shape with random weights.

    python -m benchmarks.codec --batch 1 16 64 256 --dtype float32 float16 bfloat16
    python -m benchmarks.codec --batch 16 256 --dtype float16 --beside orpheus-3b

Milliseconds for one frame (85.3 ms of audio) of the whole batch, medians, rows at positions of their own: on the device
(a graph's replay) and as the runner sees it (codes on the device to PCM in host memory). With `--beside`, the latter
once more while that language model (random weights, bf16, context 500) decodes its next frame for as many streams, as
it does in the server. The ratio is between the sound and the difference to a float32 decode in plain torch. A table for
people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.cuda import WARM_UP, medians, require_cuda
from benchmarks.decode import NEVER, start
from benchmarks.report import print_document
from engine.model.checkpoint import dummy_checkpoint, dummy_codec
from engine.model.gpu_codec import signal_to_error
from engine.model.graphs import GraphLlama
from engine.model.snac import NO_END, TorchSnac
from engine.model.snac_layers import codebook_tables, snac_layers
from engine.model.triton_snac import TritonSnac
from engine.model.weights import random_weights
from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS

DEVICE = torch.device("cuda")
CONTEXT = 500


def arguments(batch: int) -> tuple[Any, ...]:
    """A call's: rows in shuffled slots, somewhere in their utterances."""
    generator = torch.Generator().manual_seed(batch)
    codes = torch.randint(CODEBOOK_SIZE, (batch, 1, FRAME_TOKENS), generator=generator, dtype=torch.int32)
    slots = torch.randperm(batch, generator=generator).tolist()
    starts = torch.randint(0, 200, (batch,), generator=generator).tolist()
    return slots, codes.to(DEVICE), starts, [NO_END] * batch, list(range(batch))


def measure(decoder: TritonSnac, batch: int, times: int) -> dict[str, Any]:
    call = arguments(batch)
    decoder.begin(*call).pcm()
    return {
        "batch": batch,
        "device_ms": round(medians(decoder.graph(batch).replay, times)[0], 3),
        "wall_ms": round(medians(lambda: decoder.begin(*call).pcm(), times)[1], 3),
    }


def language_model(name: str, slots: int) -> GraphLlama:
    """With random weights, its streams at the context that is measured."""
    checkpoint = dummy_checkpoint(name)
    weights = random_weights(checkpoint.shape, checkpoint.layout, DEVICE, torch.bfloat16, seed=0)
    return GraphLlama(checkpoint.shape, weights, checkpoint.layout, slots, CONTEXT + 8 * FRAME_TOKENS)


def measure_beside(decoder: TritonSnac, model: GraphLlama, batch: int, times: int) -> float:
    """As the worker does it: the next frame is launched, the last one lands, its codes become PCM meanwhile."""
    call, back, slots = arguments(batch), start(model, batch, CONTEXT), list(range(batch))
    stream, taken = torch.cuda.Stream(), list[float]()
    flight = model.launch(slots, NEVER)
    for _ in range(WARM_UP + times):
        back()
        last, flight = flight, model.launch(slots, NEVER)
        last.land()
        began = time.perf_counter()
        with torch.cuda.stream(stream):
            decoder.begin(*call).pcm()
        taken.append(1000 * (time.perf_counter() - began))
    flight.land()
    return round(statistics.median(taken[WARM_UP:]), 3)


def measure_torch(decoder: TorchSnac, batch: int, times: int) -> dict[str, Any]:
    call = arguments(batch)
    return {
        "batch": batch,
        "device_ms": round(medians(lambda: decoder.decode(*call), times)[0], 3),
        "wall_ms": round(medians(lambda: decoder.decode(*call).cpu(), times)[1], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--dtype", nargs="+", default=["float32", "float16", "bfloat16"])
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--torch", action="store_true", help="plain torch in float32, too")
    parser.add_argument("--beside", metavar="MODEL", help="a language model's shape, to decode beside it as well")
    args = parser.parse_args()
    require_cuda()
    torch.backends.cudnn.allow_tf32 = False
    model = dummy_codec("snac-24khz")
    tables, layers = codebook_tables(model), snac_layers(model, "snac-24khz")
    slots = max(args.batch)
    beside = language_model(args.beside, slots) if args.beside else None
    rows = []
    print(f"{'decoder':<18}{'batch':>6}{'device ms':>11}{'wall ms':>9}{'beside ms':>11}{'ratio dB':>10}")
    for name in [*(["torch float32"] if args.torch else []), *args.dtype]:
        exact = TorchSnac(layers, tables, 1, DEVICE, torch.float32)
        if name == "torch float32":
            plain = TorchSnac(layers, tables, slots, DEVICE, torch.float32)
            measured, ratio = [measure_torch(plain, batch, args.times) for batch in args.batch], None
        else:
            decoder = TritonSnac(layers, tables, slots, DEVICE, getattr(torch, name))
            ratio = round(signal_to_error(decoder, exact, DEVICE), 1)
            measured = [measure(decoder, batch, args.times) for batch in args.batch]
            if beside:
                for row in measured:
                    row["beside_ms"] = measure_beside(decoder, beside, row["batch"], args.times)
        for row in measured:
            rows.append({"decoder": name, **row, "ratio_db": ratio})
            last = f"{row.get('beside_ms', ''):>11}{'' if ratio is None else f'{ratio:.1f}':>10}"
            print(f"{name:<18}{row['batch']:>6}{row['device_ms']:>11.3f}{row['wall_ms']:>9.3f}{last}", flush=True)
    print_document(
        rows, times=args.times, beside=args.beside, torch=torch.__version__, device=torch.cuda.get_device_name()
    )


if __name__ == "__main__":
    main()
