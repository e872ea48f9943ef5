"""Trains the demo voice's language model on WORK/codes and WORK/texts.jsonl, on all GPUs, for a given time.

Writes WORK/lm, an Orpheus-format folder of the averaged weights, every two minutes and at the end, and WORK/lm.jsonl,
the log. `--data synthetic` needs no files.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from demo.train import tokenizer as layout
from demo.train.lm_export import load, save
from demo.train.lm_model import SLOTS, Shape, initialise
from demo.train.lm_step import Settings, Step, evaluate
from demo.train.muon import Recipe
from demo.train.packing import (
    HELD_OUT,
    Corpus,
    Utterance,
    build_corpus,
    load_utterances,
    measure_room,
    synthetic_utterances,
)

AGREE_EVERY = 10  # steps between looks at the clock
LOG_SECONDS, EVALUATE_SECONDS, SAVE_SECONDS = 10.0, 60.0, 120.0
END_SECONDS = 5.0  # kept back for the last evaluation and the export


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", choices=("work", "synthetic"), default="work")
    parser.add_argument("--utterances", type=int, default=40_000, help="how many with --data synthetic")
    parser.add_argument("--seconds", type=float, default=400.0, help="wall time of everything, export included")
    parser.add_argument("--steps", type=int, default=10**9, help="stop after so many steps")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gpus", type=int, default=torch.cuda.device_count(), help="processes, one a GPU")
    parser.add_argument("--tokens", type=int, default=32_768, help="per GPU and step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--corrupt", type=float, default=0.02, help="share of input codes replaced by random ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="continue from this model folder, which also sets the shape")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-graphs", action="store_true")
    for name in ("hidden", "layers", "heads", "kv_heads", "head_dim", "mlp"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Shape(), name))
    return parser.parse_args(arguments)


def starting_weights(options: argparse.Namespace) -> tuple[Tensor, Shape]:
    """The flat fp32 weights to start from, the same on every rank."""
    if options.init:
        return load(options.init)
    names = ("hidden", "layers", "heads", "kv_heads", "head_dim", "mlp")
    shape = Shape(**{name: getattr(options, name) for name in names})
    flat = torch.empty(shape.size)
    initialise(flat, shape, options.seed)
    return flat, shape


def read_data(options: argparse.Namespace) -> tuple[list[Utterance], list[Utterance]]:
    """(training, held-out) utterances."""
    if options.data == "synthetic":
        everything = synthetic_utterances(options.utterances)
    else:
        everything = load_utterances(options.work)
    held_out = [item for item in everything if item.index < HELD_OUT]
    return [item for item in everything if item.index >= HELD_OUT], held_out


def rate_at(step: int, progress: float, peak: float, warmup: int) -> float:
    """The learning rate: a linear rise over `warmup` steps under a cosine that reaches zero at progress 1."""
    return peak * min(1.0, (step + 1) / max(warmup, 1)) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class Run:
    """One rank's training run: the clock, the log, evaluation and saving around `Step`."""

    def __init__(self, options: argparse.Namespace, rank: int, world: int, started: float) -> None:
        self.options, self.rank, self.started = options, rank, started
        self.done: dict[str, float] = {}
        self.logged = 0, 0.0
        self.device = torch.device("cuda", rank) if options.device == "cuda" else torch.device("cpu")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        torch.manual_seed(options.seed * 1000 + rank)
        flat, self.shape = starting_weights(options)
        train, held_out = read_data(options)
        self.voices = sorted({item.voice for item in train}, key=lambda voice: (voice != "tara", voice))
        self.corpus = self._corpus(train[rank::world])
        self.held_out = self._corpus(held_out) if held_out and rank == 0 else None
        room = measure_room(self.corpus, options.tokens)
        settings = Settings(
            options.dropout,
            options.corrupt,
            not options.no_compile and self.device.type == "cuda",
            not options.no_graphs,
            Recipe(weight_decay=options.weight_decay),
        )
        self.step = Step(flat.to(self.device), self.shape, self.corpus, room, settings, options.seed * 1000 + rank)
        frames = self.corpus.frames.sum() * world
        self.say(f"{len(train)} utterances, about {frames} frames, {self.shape.size} weights, {room}")

    def _corpus(self, utterances: list[Utterance]) -> Corpus:
        return build_corpus(utterances, layout.for_text(layout.build()), self.device)

    def say(self, line: str) -> None:
        """Print from rank 0, with the time since the start."""
        if self.rank == 0:
            print(f"[{time.monotonic() - self.started:6.1f} s] {line}", flush=True)

    def train(self) -> None:
        """Step until the time is over, then write the model."""
        options = self.options
        self.began = time.monotonic()
        deadline = self.started + options.seconds - END_SECONDS
        count = 0
        while count < options.steps:
            if count % AGREE_EVERY == 0:
                progress = self._agree((time.monotonic() - self.began) / max(deadline - self.began, 1e-3))
                if progress >= 1:
                    break
                self.step.optimizer.set_rate(rate_at(count, progress, options.rate, options.warmup))
                self._look_around(count)
            self.step.run()
            count += 1
        self._log(count)
        self._evaluate(count)
        self._save(count)
        self.say(f"saved {options.work / 'lm'} after {count} steps")

    def _look_around(self, count: int) -> None:
        """Log, evaluate and save, each when it is due."""
        for work, seconds in ((self._log, LOG_SECONDS), (self._evaluate, EVALUATE_SECONDS), (self._save, SAVE_SECONDS)):
            now = time.monotonic()
            if now - self.done.setdefault(work.__name__, self.began) > seconds:
                work(count)
                self.done[work.__name__] = now

    def _agree(self, progress: float) -> float:
        """Rank 0's progress, on every rank: rates must be equal or the replicas drift apart. Waits for the device."""
        shared = torch.tensor([progress], device=self.device)
        if dist.is_initialized():
            dist.broadcast(shared, 0)
        return shared.item()

    def _log(self, count: int) -> None:
        if self.rank:
            return
        losses, now = self.step.take_statistics(), time.monotonic()
        steps, seconds = count - self.logged[0], now - max(self.logged[1], self.began)
        pace = 1e3 * seconds / max(steps, 1)
        self.logged = count, now
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        tokens = round(ranks * self.options.tokens / pace * 1e3)
        rate = self.step.optimizer.scalars[0].item()
        self._record("train", count, losses, ms_per_step=round(pace, 2), tokens_per_second=tokens, rate=round(rate, 6))

    def _evaluate(self, count: int) -> None:
        if self.held_out is not None:
            tokens = max(self.options.tokens, self.held_out.longest)
            losses = evaluate(self.step.optimizer.ema, self.shape, self.held_out, tokens)
            self._record("held out", count, losses)

    def _record(self, kind: str, count: int, losses: list[float], **more: float) -> None:
        mean = sum(losses[:SLOTS]) / SLOTS
        slots = " ".join(f"{loss:.2f}" for loss in losses[:SLOTS])
        extra = " ".join(f"{name} {value:,}" for name, value in more.items())
        self.say(
            f"{kind} step {count} epoch {self.step.epochs} loss {mean:.4f} slots {slots} "
            f"end {losses[SLOTS]:.4f} leak {losses[-1]:.4f} {extra}"
        )
        seconds = round(time.monotonic() - self.began, 1)
        row = {"kind": kind, "seconds": seconds, "step": count, "epoch": self.step.epochs, "loss": mean, **more}
        with (self.options.work / "lm.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(row | {"losses": [round(loss, 4) for loss in losses]}) + "\n")

    def _save(self, _count: int) -> None:
        if self.rank == 0:
            save(self.options.work / "lm", self.step.optimizer.ema, self.shape, self.voices)


def work_rank(rank: int, world: int, options: argparse.Namespace, started: float, port: int) -> None:
    """One rank's whole life."""
    run = Run(options, rank, world, started)
    run.step.prepare()
    run.say(f"prepared; gradient + optimizer {run.step.pace or 'not measured'} ms; {memory(run.device)}")
    if world > 1:
        backend, address = ("nccl" if options.device == "cuda" else "gloo"), f"tcp://127.0.0.1:{port}"
        device = run.device if options.device == "cuda" else None
        dist.init_process_group(backend, init_method=address, rank=rank, world_size=world, device_id=device)
        run.say(f"{world} ranks joined")
    try:
        run.train()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def memory(device: torch.device) -> str:
    """How much device memory has been used at most."""
    return f"{torch.cuda.max_memory_reserved(device) / 1e9:.1f} GB" if device.type == "cuda" else "CPU"


def free_port() -> int:
    """A TCP port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(arguments: list[str] | None = None) -> None:
    """Train on every GPU, one process each."""
    started = time.monotonic()
    options = parse(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    world = max(options.gpus, 1)
    os.environ.setdefault("OMP_NUM_THREADS", "8")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "8")
    if world == 1:
        work_rank(0, 1, options, started, 0)
    else:
        mp.spawn(work_rank, (world, options, started, free_port()), nprocs=world)


if __name__ == "__main__":
    main()
