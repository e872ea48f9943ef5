"""Trains the demo voice's codec, a SNAC, on WORK/audio with any number of GPUs; writes WORK/codec as snac publishes it.

Starts with spectral losses, adds the critics part-way, and lowers the rate on a cosine over the wall time it is given.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import torch
import torch.multiprocessing as mp
from snac import SNAC
from torch import Tensor

from demo.train.audio_pool import RATE, AudioPool, synthetic_speech
from demo.train.codebooks import MEMORY
from demo.train.codec_step import STATS, CodecStep, Plan
from demo.train.ranks import Control, Ranks, free_port

SHAPE = {
    "sampling_rate": RATE, "encoder_dim": 32, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 512,
    "decoder_rates": [8, 8, 4, 2], "attn_window_size": None, "codebook_size": 4096, "codebook_dim": 8,
    "vq_strides": [4, 2, 1], "noise": True, "depthwise": True,
}  # fmt: skip
TOY_SHAPE = SHAPE | {"encoder_dim": 4, "decoder_dim": 32, "codebook_size": 64}
CONTROL_STEPS = 10
WARM_STEPS = 200
AVERAGE_DECAY = 0.999
RESTART_EVERY = 50
RESTART_UNTIL = 0.7  # of the time: later codes must settle
SAVE_SECONDS = 120.0
LOG_SECONDS = 10.0
LAST_SECONDS = 5.0  # kept for the last checkpoint


class Training:
    """One rank's training loop."""

    def __init__(self, args: argparse.Namespace, ranks: Ranks, began: float) -> None:
        self.args, self.ranks, self.began = args, ranks, began
        self.deadline = began + args.seconds - LAST_SECONDS
        self.folder = args.work / "codec"
        self.pool = open_pool(args, ranks)
        torch.manual_seed(args.seed)  # the same first weights on every rank
        self.model = build_model(args, ranks.device)
        plan = Plan(args.batch, args.crop, args.freeze_encoder, args.toy)
        self.step = CodecStep(self.model, plan, ranks.device, ranks.broadcast)
        if args.init and (args.init / "discriminators.pt").exists() and not args.freeze_encoder:
            self.step.discriminators.load_state_dict(
                torch.load(args.init / "discriminators.pt", map_location="cpu", weights_only=True)
            )
        self.done = self.logged_steps = self.moved = 0
        self.gan_since: int | None = None

    def prepare(self) -> None:
        torch.manual_seed(self.args.seed * 1000 + 1 + self.ranks.rank)
        if self.ranks.device.type == "cuda" and not self.args.eager:
            self.step.capture(self.say)
        if self.pool.folder:
            self.pool.follow()
        self.started = self.logged = self.saved = time.time()
        self.say(f"ready after {self.started - self.began:.1f} s, {self.pool.total_hours:.2f} h on rank 0")

    def crops(self) -> Tensor:
        return self.pool.crops(self.args.batch, self.args.crop)

    def say(self, text: str) -> None:
        if self.ranks.rank == 0:
            print(f"[codec {time.time() - self.began:6.1f} s] {text}", flush=True)

    def control(self) -> Control:
        now = time.time()
        progress = (now - self.started) / max(1e-3, self.deadline - self.started)
        stop = progress >= 1 or self.done >= self.args.steps
        return self.ranks.agree(Control(progress, progress >= self.args.gan_from, stop))

    def set_rates(self, control: Control) -> None:
        warm = min(1.0, (self.done + 1) / WARM_STEPS)
        rate = self.args.rate * warm * max(1e-3, 0.5 * (1 + math.cos(math.pi * min(1.0, control.progress))))
        if control.gan and self.gan_since is None:
            self.gan_since = self.done
            self.say(f"critics from step {self.done}")
        judged = 0 if self.gan_since is None else self.done - self.gan_since + CONTROL_STEPS
        decay = min(AVERAGE_DECAY, (1 + self.done) / (10 + self.done))
        self.step.set_rates(rate, min(1.0, judged / WARM_STEPS), decay, MEMORY)

    def one(self, gan: bool) -> None:
        self.step.audio.copy_(self.crops())
        self.step.gradients[gan]()
        self.ranks.average(self.step.generator.reduced)
        if gan:
            self.ranks.average(self.step.critics.reduced)
        self.step.update[gan]()
        self.step.codebooks.remember(self.done)
        self.done += 1

    def restart_due(self, control: Control) -> bool:
        fixed = self.args.freeze_encoder or control.progress > RESTART_UNTIL
        return not fixed and self.done > 0 and self.done % RESTART_EVERY == 0

    def tend_codebooks(self, control: Control) -> None:
        if self.restart_due(control):
            self.moved += self.step.codebooks.restart()

    def run(self) -> None:
        self.prepare()
        while not (control := self.control()).stop:
            self.set_rates(control)
            for _ in range(CONTROL_STEPS):
                self.tend_codebooks(control)
                self.one(control.gan)
            self.report(control)
        self.pool.stopped.set()
        self.report(control, last=True)

    def report(self, control: Control, last: bool = False) -> None:
        now = time.time()
        if self.ranks.rank == 0 and (last or now - self.logged > LOG_SECONDS) and self.done > self.logged_steps:
            self.log(control, now)
        if self.ranks.rank == 0 and (last or now - self.saved > SAVE_SECONDS):
            self.save()
            self.saved = time.time()

    def log(self, control: Control, now: float) -> None:
        steps = self.done - self.logged_steps
        means = dict(zip(STATS, (self.step.stats / steps).tolist(), strict=True))
        flat = self.step.generator
        row = {
            "seconds": round(now - self.began, 1), "step": self.done,
            "ms": round(1000 * (now - self.logged) / steps, 1),
            "rate": float(f"{float(flat.rate):.3g}"), "gan": control.gan, **{k: round(v, 4) for k, v in means.items()},
            "perplexity": [round(p) for p in self.step.codebooks.perplexities()], "moved": self.moved,
            "norm": round(float(flat.norm), 1), "critic_norm": round(float(self.step.critics.norm), 1),
            "samples": self.done * self.args.batch * self.ranks.world, "hours": round(self.pool.total_hours, 2),
        }  # fmt: skip
        self.say(" ".join(f"{name} {value}" for name, value in row.items() if name != "seconds"))
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.step.stats.zero_()
        self.logged, self.logged_steps, self.moved = time.time(), self.done, 0

    def save(self) -> None:
        write_atomically(self.folder / "pytorch_model.bin", self.step.weights())
        state = {name: tensor.half() for name, tensor in self.step.discriminators.state_dict().items()}
        write_atomically(self.folder / "discriminators.pt", state)
        self.say(f"saved {self.folder} at step {self.done}")


def write_atomically(path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def build_model(args: argparse.Namespace, device: torch.device) -> SNAC:
    if args.init:
        model = SNAC.from_pretrained(str(args.init)).float().train()
    else:
        model = SNAC(**(TOY_SHAPE if args.toy else SHAPE))
    model = model.to(device)
    if device.type == "cuda" and not args.plain:
        from demo.train.codec_layers import Numbers, accelerate

        accelerate(model, Numbers(torch.float32 if args.fp32 else torch.bfloat16))
    return model


def open_pool(args: argparse.Namespace, ranks: Ranks) -> AudioPool:
    voices = tuple(args.voices.split(","))
    if args.data == "synthetic":
        pool = AudioPool(voices, ranks.device, hours=0.02, seed=args.seed, rank=ranks.rank)
        for voice in range(len(voices)):
            pool.append(voice, synthetic_speech(20.0, 200.0 / (1 + voice), seed=ranks.rank * 100 + voice))
        return pool
    pool = AudioPool(voices, ranks.device, args.hours, args.work / "audio", ranks.rank, ranks.world, args.seed)
    pool.wait(int(args.wait_minutes * 60 * RATE), seconds=args.wait_seconds)
    return pool


def set_up_device(args: argparse.Namespace, rank: int) -> torch.device:
    if args.device == "cpu":
        torch.set_num_threads(1)
        return torch.device("cpu")
    torch.cuda.set_device(rank)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.benchmark_limit = 5  # of the algorithms a layer could take: start-up counts too
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False  # mel sums and nearest codes want fp32; convolutions don't
    return torch.device("cuda", rank)


def train(rank: int, args: argparse.Namespace, port: int, began: float) -> None:
    """One rank, from its process's start to its end."""
    device = set_up_device(args, rank)
    ranks = Ranks(rank, args.gpus, device, port)
    Training(args, ranks, began).run()
    ranks.close()


def write_config(args: argparse.Namespace) -> None:
    folder = args.work / "codec"
    folder.mkdir(parents=True, exist_ok=True)
    shape = TOY_SHAPE if args.toy else SHAPE
    if args.init:
        shape = json.loads((args.init / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(shape, indent=2) + "\n")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--work", type=Path, required=True)
    add("--seconds", type=float, default=600.0, help="wall time in all, start-up included")
    add("--steps", type=int, default=10**9)
    add("--gpus", type=int, default=None, help="processes; default: every GPU")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--data", choices=("audio", "synthetic"), default="audio")
    add("--voices", default="tara,leo")
    add("--hours", type=float, default=25.0, help="room in the pool, a voice and rank")
    add("--wait-minutes", type=float, default=20.0, help="minutes of audio, a voice and rank, to begin with")
    add("--wait-seconds", type=float, default=120.0)
    add("--batch", type=int, default=32, help="crops a rank")
    add("--crop", type=int, default=16384)
    add("--rate", type=float, default=5e-4)
    add("--gan-from", type=float, default=0.22, help="part of the time before the critics join")
    add("--init", type=Path, default=None, help="folder of a codec to go on from")
    add("--freeze-encoder", action="store_true", help="train only the decoder; codes stay valid")
    add("--fp32", action="store_true", help="fp32 branches instead of bf16")
    add("--plain", action="store_true", help="snac's own layers instead of kernels")
    add("--eager", action="store_true", help="no CUDA graphs")
    add("--toy", action="store_true")
    add("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if args.freeze_encoder and not args.init:
        parser.error("--freeze-encoder needs --init")
    return args


def main(argv: list[str] | None = None) -> None:
    began = time.time()
    args = parse(argv)
    args.gpus = args.gpus or (torch.cuda.device_count() if args.device == "cuda" else 1)
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    write_config(args)
    if args.gpus == 1:
        train(0, args, 0, began)
    else:
        mp.spawn(train, (args, free_port(), began), nprocs=args.gpus)


if __name__ == "__main__":
    main()
