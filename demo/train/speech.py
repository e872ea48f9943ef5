"""The teachers speak WORK/texts.jsonl into WORK/audio: one voice a run, many worker processes, until done or --seconds.

Worker i takes rows i::workers of that voice and appends int16 samples to <voice>-<i>.pcm, then one line
{"id", "start", "length"} to <voice>-<i>.jsonl, so that readers may follow the files while they grow.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import threading
import time
import wave
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.sharedctypes import SynchronizedArray
from pathlib import Path

import numpy as np

from demo.train import teachers
from demo.train.teachers import RATE, Row, Spoken

SMOKE_WAVS = 10


@dataclass(frozen=True)
class Job:
    work: Path
    voice: str
    teacher: str
    workers: int
    deadline: float  # time.time()
    gpus: int
    weights: Path | None
    style: Path | None
    smoke: bool

    def device(self, worker: int) -> str:
        return f"cuda:{worker % self.gpus}" if self.gpus else "cpu"


class Shard:
    """One worker's pair of files; in a smoke run only the first few utterances, as wavs."""

    def __init__(self, job: Job, worker: int, totals: SynchronizedArray) -> None:
        self.job, self.worker, self.totals = job, worker, totals
        self.stem = job.work / ("smoke" if job.smoke else "audio") / f"{job.voice}-{worker:03d}"
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        self.samples = self.count = 0
        if not job.smoke:
            self.pcm, self.lines = self.stem.with_suffix(".pcm").open("wb"), self.stem.with_suffix(".jsonl").open("w")

    def add(self, key: int, samples: np.ndarray) -> None:
        if not len(samples):
            return
        if not self.job.smoke:
            self.write(key, samples)
        elif self.count < SMOKE_WAVS and self.worker == 0:
            write_wav(self.stem.with_name(f"{self.job.voice}-{key:06d}.wav"), samples)
        self.samples, self.count = self.samples + len(samples), self.count + 1
        self.totals[2 * self.worker : 2 * self.worker + 2] = [self.samples, self.count]

    def write(self, key: int, samples: np.ndarray) -> None:
        self.pcm.write(samples.astype("<i2").tobytes())
        self.pcm.flush()
        self.lines.write(json.dumps({"id": key, "start": self.samples, "length": len(samples)}) + "\n")
        self.lines.flush()


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(samples.astype("<i2").tobytes())


def rows_of(job: Job, worker: int) -> list[Row]:
    with (job.work / "texts.jsonl").open(encoding="utf-8") as lines:
        mine = [row for row in map(json.loads, lines) if job.voice in row["voices"] and row["phonemes"]["us"]]
    return mine[worker :: job.workers]


def spoken(job: Job, worker: int, rows: Iterable[Row]) -> Iterator[list[Spoken]]:
    if job.teacher == "kokoro":
        if job.weights is None or job.style is None:
            raise SystemExit("--teacher kokoro needs --weights and --style")
        yield from teachers.KokoroTeacher(job.weights, job.style, job.device(worker))(rows)
    else:
        for one in teachers.hibari(rows, male=job.teacher == "hibari-dsp"):
            yield [one]


def work(job: Job, worker: int, totals: SynchronizedArray) -> None:
    """One process. Writing goes on in a thread of its own, so that a GPU need not wait for it."""
    shard = Shard(job, worker, totals)
    pending: queue.Queue[list[Spoken] | None] = queue.Queue(maxsize=8)

    def drain() -> None:
        while (batch := pending.get()) is not None:
            for key, samples in batch:
                shard.add(key, samples)

    writer = threading.Thread(target=drain)
    writer.start()
    try:
        for batch in spoken(job, worker, rows_of(job, worker)):
            pending.put(batch)
            if time.time() > job.deadline:
                break
    finally:
        pending.put(None)
        writer.join()


def watch(job: Job, processes: list[multiprocessing.process.BaseProcess], totals: SynchronizedArray) -> None:
    """Progress every five seconds; a worker that does not stop by itself is stopped."""
    start, last, before = time.time(), time.time(), 0
    while any(process.is_alive() for process in processes):
        time.sleep(0.2)
        now = time.time()
        if now - last >= 5:
            samples, rate = sum(totals[::2]), RATE * (now - last)
            print(
                f"{now - start:6.1f} s  {job.voice}: {sum(totals[1::2]):,} utterances, {samples / RATE / 3600:.2f} h, "
                f"{(samples - before) / rate:,.0f} x real time",
                flush=True,
            )
            last, before = now, samples
        if now > job.deadline + 20:
            for process in processes:
                process.terminate()
    hours = sum(totals[::2]) / RATE / 3600
    speed = hours * 3600 / (time.time() - start)
    print(
        f"{job.voice} ended after {time.time() - start:.1f} s: {sum(totals[1::2]):,} utterances, {hours:.2f} h, "
        f"{speed:,.0f} x real time with the start; exit codes {sorted({p.exitcode for p in processes}, key=str)}",
        flush=True,
    )


def gpu_count(device: str) -> int:
    if device == "cpu":
        return 0
    import torch

    return torch.cuda.device_count()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--voice", required=True, help="tara or leo")
    parser.add_argument("--teacher", choices=("hibari", "hibari-dsp", "kokoro"), required=True)
    parser.add_argument("--seconds", type=float, default=3600, help="wall limit, the start included")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of a CPU teacher")
    parser.add_argument("--workers-per-gpu", type=int, default=2, help="processes of kokoro")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="of kokoro")
    parser.add_argument("--weights", type=Path, help="kokoro: the file that kokoro_weights.py wrote")
    parser.add_argument("--style", type=Path, help="kokoro: a voice's .bin")
    parser.add_argument("--smoke", action="store_true", help="keep ten wavs (WORK/smoke) and the throughput only")
    return parser.parse_args()


def main() -> None:
    args = parse()
    gpus = gpu_count(args.device) if args.teacher == "kokoro" else 0
    workers = gpus * args.workers_per_gpu if gpus else args.workers
    deadline = time.time() + args.seconds
    job = Job(args.work, args.voice, args.teacher, workers, deadline, gpus, args.weights, args.style, args.smoke)
    context = multiprocessing.get_context("spawn")
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers inherit it
    totals = context.Array("q", 2 * workers)
    processes = [context.Process(target=work, args=(job, n, totals)) for n in range(workers)]
    for process in processes:
        process.start()
    watch(job, processes, totals)


if __name__ == "__main__":
    main()
