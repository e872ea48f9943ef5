"""Times the codec's decode on CUDA, at SNAC-24k's shape with random weights.

    python -m benchmarks.codec --batch 1 16 64 256 --dtype float32 float16 bfloat16

Milliseconds for one frame (85.3 ms of audio) of the whole batch, medians, rows at positions of their own: on the device
(a graph's replay) and as the runner sees it (codes on the device to PCM in host memory). The ratio is between the sound
and the difference to a float32 decode in plain torch. A table for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.cuda import medians, require_cuda
from benchmarks.report import print_document
from engine.model.checkpoint import dummy_codec
from engine.model.gpu_codec import signal_to_error
from engine.model.snac import NO_END, TorchSnac
from engine.model.snac_layers import codebook_tables, snac_layers
from engine.model.triton_snac import TritonSnac
from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS

DEVICE = torch.device("cuda")


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
    args = parser.parse_args()
    require_cuda()
    torch.backends.cudnn.allow_tf32 = False
    model = dummy_codec("snac-24khz")
    tables, layers = codebook_tables(model), snac_layers(model, "snac-24khz")
    slots = max(args.batch)
    rows = []
    print(f"{'decoder':<18}{'batch':>6}{'device ms':>11}{'wall ms':>9}{'ratio dB':>10}")
    for name in [*(["torch float32"] if args.torch else []), *args.dtype]:
        exact = TorchSnac(layers, tables, 1, DEVICE, torch.float32)
        if name == "torch float32":
            plain = TorchSnac(layers, tables, slots, DEVICE, torch.float32)
            measured, ratio = [measure_torch(plain, batch, args.times) for batch in args.batch], None
        else:
            decoder = TritonSnac(layers, tables, slots, DEVICE, getattr(torch, name))
            ratio = round(signal_to_error(decoder, exact, DEVICE), 1)
            measured = [measure(decoder, batch, args.times) for batch in args.batch]
        for row in measured:
            rows.append({"decoder": name, **row, "ratio_db": ratio})
            shown = "" if ratio is None else f"{ratio:.1f}"
            print(f"{name:<18}{row['batch']:>6}{row['device_ms']:>11.3f}{row['wall_ms']:>9.3f}{shown:>10}", flush=True)
    print_document(rows, times=args.times, torch=torch.__version__, device=torch.cuda.get_device_name())


if __name__ == "__main__":
    main()
