"""Turns WORK/audio into WORK/codes/<voice>.npz with the codec as it ships (weights rounded to fp16), on every GPU.

Clips of the same number of frames share a batch, so each gets exactly the codes it would get alone. With --export it
writes the shipped codec's folder instead.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
from snac import SNAC
from torch import Tensor

from demo.train.audio_pool import RATE, voice_files
from demo.train.codec_loss import nearest, stretch

SHORTEST = 3  # frames
SLOT_LEVELS = (0, 1, 2, 2, 1, 2, 2)  # codebook of each of a frame's seven slots
SLOT_PLACES = (0, 0, 0, 1, 1, 2, 3)  # and which of that codebook's codes
READERS = 4
AHEAD = 8  # batches read before they are needed
BUDGET = {"cuda": 16_000_000, "cpu": 500_000}  # samples a batch


@dataclass(frozen=True)
class Clips:
    """Every utterance of all voices, as parallel arrays sorted by frames; `paths[file]` holds its samples."""

    paths: list[Path]
    voice: np.ndarray
    file: np.ndarray
    id: np.ndarray
    start: np.ndarray
    length: np.ndarray
    frames: np.ndarray


def list_clips(folder: Path, voices: list[str], frame: int) -> Clips:
    paths, rows = [], []
    for voice, name in enumerate(voices):
        for pcm in voice_files(folder, name):
            index = pcm.with_suffix(".jsonl").read_text()
            for line in index[: index.rfind("\n") + 1].splitlines():
                row = json.loads(line)
                rows.append((voice, len(paths), row["id"], row["start"], row["length"], -(-row["length"] // frame)))
            paths.append(pcm)
    table = np.array(rows, np.int64).reshape(-1, 6)
    table = table[table[:, 5] >= SHORTEST]
    table = table[np.lexsort((table[:, 3], table[:, 1], table[:, 5]))]  # by frames, then in the files' order
    return Clips(paths, *table.T)


def batches(clips: Clips, frame: int, budget: int) -> list[slice]:
    """Runs of clips with the same number of frames, none over the budget of samples."""
    edges = np.flatnonzero(np.diff(clips.frames, prepend=-1, append=-1))
    found = []
    for first, end in pairwise(edges):
        size = max(1, budget // int(clips.frames[first] * frame))
        found += [slice(at, min(at + size, end)) for at in range(first, end, size)]
    return found


class Reader:
    """Reads batches as int16 [clips, samples], ended with silence to whole frames."""

    def __init__(self, clips: Clips, frame: int) -> None:
        self.clips, self.frame = clips, frame
        self.sound = [np.memmap(path, np.int16, "r") if path.stat().st_size else None for path in clips.paths]

    def __call__(self, batch: slice) -> np.ndarray:
        clips = self.clips
        audio = np.zeros((batch.stop - batch.start, int(clips.frames[batch.start]) * self.frame), np.int16)
        for row, at in zip(audio, range(batch.start, batch.stop), strict=True):
            row[: clips.length[at]] = self.sound[clips.file[at]][clips.start[at] : clips.start[at] + clips.length[at]]
        return audio


def read_ahead(read: Callable[[slice], np.ndarray], wanted: list[slice]) -> Iterator[tuple[slice, np.ndarray]]:
    todo = iter(wanted)
    with ThreadPoolExecutor(READERS) as pool:
        pending = [(batch, pool.submit(read, batch)) for batch in islice(todo, AHEAD)]
        while pending:
            batch, future = pending.pop(0)
            pending += [(ahead, pool.submit(read, ahead)) for ahead in islice(todo, 1)]
            yield batch, future.result()


def interleave(codes: list[Tensor]) -> Tensor:
    """Codes by codebook [batch, frames * 1, 2 or 4] -> [batch, frames, 7] in Orpheus's slot order."""
    frames = codes[0].shape[1]
    by_frame = [code.unflatten(1, (frames, -1)) for code in codes]
    return torch.stack(
        [by_frame[level][..., place] for level, place in zip(SLOT_LEVELS, SLOT_PLACES, strict=True)], dim=2
    )


@torch.inference_mode()
def encode(model: SNAC, audio: Tensor) -> Tensor:
    """[batch, samples] in -1..1, whole frames -> codes [batch, frames, 7]."""
    residual, codes = model.encoder(audio.unsqueeze(1)), []
    for level in model.quantizer.quantizers:
        pooled = torch.nn.functional.avg_pool1d(residual, level.stride, level.stride)
        latents = level.in_proj(pooled).transpose(1, 2)
        code = nearest(latents.flatten(0, 1), level.codebook.weight).view(latents.shape[:2])
        residual = residual - stretch(level.out_proj(level.decode_code(code)), level.stride)
        codes.append(code)
    return interleave(codes)


def load_shipped(folder: Path, device: torch.device) -> SNAC:
    """The codec with its weights rounded to the precision that ships, computing in plain fp32."""
    model = SNAC.from_pretrained(str(folder)).half().float().to(device)
    if device.type == "cuda":
        from demo.train.codec_layers import Numbers, accelerate

        accelerate(model, Numbers(torch.float32, "tf32x3"))
    return model


def frame_samples(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    return int(np.prod(config["encoder_rates"])) * config["vq_strides"][0]


def encode_share(rank: int, args: argparse.Namespace) -> None:
    """One process's batches -> WORK/codes/part-<rank>.npz: rows of the clip table and their codes."""
    device = torch.device(args.device, rank) if args.device == "cuda" else torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    frame, began = frame_samples(args.codec), time.time()
    model, clips = load_shipped(args.codec, device), list_clips(args.work / "audio", args.voices, frame)
    mine = batches(clips, frame, args.budget or BUDGET[device.type])[rank :: args.gpus]
    rows, codes, said = [], [], began
    for done, (batch, audio) in enumerate(read_ahead(Reader(clips, frame), mine)):
        found = encode(model, torch.from_numpy(audio).to(device).float() / 32768)
        rows.append(np.arange(batch.start, batch.stop))
        codes.append(found.flatten(0, 1).to("cpu", torch.int16).numpy().astype(np.uint16))
        if time.time() - said > 5 and rank == 0:
            said = time.time()
            print(f"[encode {said - began:5.1f} s] rank 0: {done + 1} of {len(mine)} batches", flush=True)
    rows, codes = np.concatenate([np.zeros(0, np.int64), *rows]), np.concatenate([np.zeros((0, 7), np.uint16), *codes])
    np.savez(args.work / "codes" / f"part-{rank}.npz", rows=rows, codes=codes)


def merge(args: argparse.Namespace) -> None:
    """The processes' parts -> one file a voice, in the order of ids."""
    clips = list_clips(args.work / "audio", args.voices, frame_samples(args.codec))
    parts = [args.work / "codes" / f"part-{rank}.npz" for rank in range(args.gpus)]
    loaded = [np.load(part) for part in parts]
    rows, codes = (np.concatenate([part[key] for part in loaded]) for key in ("rows", "codes"))
    ends = np.cumsum(clips.frames[rows])
    starts = np.zeros(len(clips.frames), np.int64)
    starts[rows] = ends - clips.frames[rows]
    for voice, name in enumerate(args.voices):
        mine = np.flatnonzero(clips.voice == voice)
        mine = mine[np.argsort(clips.id[mine], kind="stable")]
        frames = clips.frames[mine]
        begin = np.cumsum(frames) - frames
        where = np.repeat(starts[mine] - begin, frames) + np.arange(frames.sum())
        np.savez(
            args.work / "codes" / f"{name}.npz", codes=codes[where], id=clips.id[mine].astype(np.int32),
            start=begin.astype(np.int64), frames=frames.astype(np.int32),
        )  # fmt: skip
        used = [len(np.unique(codes[where][:, slots])) for slots in ([0], [1, 4], [2, 3, 5, 6])]
        hours = frames.sum() * frame_samples(args.codec) / RATE / 3600
        print(f"{name}: {len(mine)} clips, {frames.sum()} frames, {hours:.2f} h, codes used {used}", flush=True)
    for part in parts:
        part.unlink()


def export(codec: Path, folder: Path, with_encoder: bool) -> None:
    """The codec as it ships: fp16, without the encoder unless asked."""
    folder.mkdir(parents=True, exist_ok=True)
    state = torch.load(codec / "pytorch_model.bin", map_location="cpu", weights_only=True)
    kept = {name: tensor.half() for name, tensor in state.items() if with_encoder or not name.startswith("encoder.")}
    if not all(bool(tensor.isfinite().all()) for tensor in kept.values()):
        raise ValueError(f"{codec}: a weight does not fit fp16")
    torch.save(kept, folder / "pytorch_model.bin")
    shutil.copyfile(codec / "config.json", folder / "config.json")
    for part in ("encoder", "quantizer", "decoder"):
        count = sum(tensor.numel() for name, tensor in kept.items() if name.startswith(part))
        print(f"{part}: {count / 1e6:.2f} M parameters, {count * 2 / 1e6:.2f} MB", flush=True)
    print(f"{folder / 'pytorch_model.bin'}: {(folder / 'pytorch_model.bin').stat().st_size / 1e6:.2f} MB", flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--work", type=Path, required=True)
    add("--codec", type=Path, default=None, help="default: WORK/codec")
    add("--voices", type=lambda names: names.split(","), default=["tara", "leo"])
    add("--gpus", type=int, default=None, help="processes; default: every GPU")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--budget", type=int, default=None, help="samples a batch")
    add("--export", type=Path, default=None, help="write the shipped codec here and encode nothing")
    add("--with-encoder", action="store_true")
    args = parser.parse_args(argv)
    args.codec = args.codec or args.work / "codec"
    args.gpus = args.gpus or (torch.cuda.device_count() if args.device == "cuda" else 1)
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.export:
        export(args.codec, args.export, args.with_encoder)
        return
    began = time.time()
    (args.work / "codes").mkdir(parents=True, exist_ok=True)
    if args.gpus == 1:
        encode_share(0, args)
    else:
        mp.spawn(encode_share, (args,), nprocs=args.gpus)
    merge(args)
    print(f"encoded in {time.time() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
