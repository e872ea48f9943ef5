"""What the guard does to speech that needs none, and what it costs.

    python -m benchmarks.guard --texts texts.txt             # one text a line; --cost alone: no model is loaded

Every text is spoken by each voice of the model, whole, and heard frame by frame by a guard as it is set by default.
`cuts` must be 0. `most_familiar`: of 24 frames, how many the detector of circles found familiar at most. Milliseconds
of quiet before the first audible sample, as generated and as sent, and the longest within a piece of text. `budget`:
the largest share of its frames that a piece took. The second table: microseconds of processor time for a frame of so
many streams, a seventh of them in a pause, medians of 200. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import percentile, print_document, print_table, rounded
from engine.config import EngineConfig
from engine.guard import Guard, audible_ends, audible_start
from engine.model.runner import ModelRunner
from engine.model.slots import Sampling
from engine.pauses import AUDIBLE
from engine.scheduler import FrameResult, Scheduler
from engine.sequence import Chunk, Sequence
from engine.text import Normaliser, chunks
from engine.windows import SAMPLE_RATE, SAMPLES_PER_FRAME

TEXT = Path(__file__).with_name("texts") / "long.txt"
SLOTS = 16


@dataclass
class Spoken:
    """One chunk: what was generated, what the guard sent of it, and why it would have ended it."""

    raw: list[bytes] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    familiar: int = 0
    cut: str | None = None
    budget: float = 0.0


def speak(runner: ModelRunner, texts: list[str], voices: list[str], seed: int) -> Iterator[Spoken]:
    """All chunks of all texts, each for itself, many at once."""
    scheduler, guard, heard = Scheduler(SLOTS), Guard(SLOTS), dict[int, Spoken]()
    pieces = [
        runner.prompt(voice, chunk.text)
        for voice in voices
        for text in texts
        for chunk in chunks(Normaliser()(text), runner.info.chunk_chars)
    ]
    for number, piece in enumerate(pieces):
        scheduler.add(Sequence(number, [piece], seed + number, silence=guard.silence()))
        heard[number] = Spoken()
    while not scheduler.idle:
        scheduler.schedule()
        runner.start_all([(sequence, sampling(runner, sequence)) for sequence in scheduler.unready])
        yield from frame(runner, scheduler, guard, heard)


def sampling(runner: ModelRunner, sequence: Sequence) -> Sampling:
    """The checkpoint's defaults."""
    usual = runner.info.defaults
    return Sampling(
        usual.temperature, usual.top_p, usual.top_k, usual.repetition_penalty, usual.repetition_window,
        sequence.chunk_seed,
    )  # fmt: skip


def frame(runner: ModelRunner, scheduler: Scheduler, guard: Guard, heard: dict[int, Spoken]) -> Iterator[Spoken]:
    """One frame of all; -> the chunks that it ends. What the guard would end goes on."""
    flight = runner.launch(scheduler.running)
    results = scheduler.postprocess(zip(scheduler.running, flight.land(), strict=True))
    pcm = runner.speak(results, flight.codes)
    for result, raw, (sent, cut) in zip(results, pcm, guard.hear(results, flight.heard, pcm), strict=True):
        sequence, spoken = result.sequence, heard[result.sequence.request_id]
        spoken.raw.append(raw)
        spoken.sent.append(sent)
        spoken.cut = spoken.cut or cut
        spoken.familiar = max(spoken.familiar, guard.familiar(sequence))
        if result.last:
            spoken.budget = sequence.frames / sequence.current.max_frames
            scheduler.next_chunk(sequence)
            yield heard.pop(sequence.request_id)


def quiet(spoken: list[Spoken]) -> dict[str, Any]:
    """Milliseconds before the first sound, and the longest within."""
    generated, sent = [b"".join(each.raw) for each in spoken], [b"".join(each.sent) for each in spoken]
    before, after = ([milliseconds(audible_start(pcm)) for pcm in all_of] for all_of in (generated, sent))
    return {
        "lead_p50": percentile(before, 0.5), "lead_p95": percentile(before, 0.95), "lead_max": max(before),
        "sent_p50": percentile(after, 0.5), "sent_p95": percentile(after, 0.95), "sent_max": max(after),
        "longest_within": max(map(longest_within, generated)),
    }  # fmt: skip


def longest_within(pcm: bytes) -> float:
    """Milliseconds between two sounds."""
    loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2").astype(int)) > AUDIBLE)
    return milliseconds(int(np.diff(loud).max(initial=1)) - 1)


def milliseconds(samples: int) -> float:
    return round(samples * 1000 / SAMPLE_RATE, 1)


def cost(streams: int) -> dict[str, Any]:
    """Processor time, so that a busy machine tells about the same."""
    random, guard = np.random.default_rng(0), Guard(streams)
    loud = [random.normal(0, 3000, SAMPLES_PER_FRAME).astype("<i2").tobytes() for _ in range(64)]
    results = [
        FrameResult(Sequence(slot, [Chunk([0], 999)], 0, slot=slot, silence=guard.silence()), spoken=True, last=False)
        for slot in range(streams)
    ]
    times: dict[str, list[float]] = {"hear": [], "of_it_audible": []}
    for turn in range(200):
        for result in results:
            result.sequence.frames += 1
        codes = random.integers(0, 4096, (streams, 7)).astype(np.int32)
        pause = bytes(2 * SAMPLES_PER_FRAME)
        pcm = [pause if (turn + slot) % 7 == 6 else loud[(turn + slot) % 64] for slot in range(streams)]
        began = time.thread_time()
        guard.hear(results, codes, pcm)
        heard = time.thread_time()
        audible_ends(pcm)
        times["hear"].append(heard - began)
        times["of_it_audible"].append(time.thread_time() - heard)
    return {"streams": streams} | {name: rounded(1e6 * float(np.median(all_of)), 1) for name, all_of in times.items()}


def main() -> None:
    """Speak, hear, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, default=TEXT, help="one text a line")
    parser.add_argument("--limit", type=int, help="so many of them")
    parser.add_argument("--model", help="none: the demo voice")
    parser.add_argument("--codec")
    parser.add_argument("--voices", type=lambda names: names.split(","), default=["tara", "leo"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cost", action="store_true", help="the second table alone")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if not args.cost:
        texts = [line for line in args.texts.read_text(encoding="utf-8").splitlines() if line.strip()][: args.limit]
        runner = ModelRunner(EngineConfig(model=args.model, codec=args.codec, max_concurrency=SLOTS))
        rows.append(judged(list(speak(runner, texts, args.voices, args.seed))))
        print_table(rows)
    costs = [cost(streams) for streams in (1, 16, 256)]
    print_table(costs)
    print_document(rows, cost=costs)


def judged(spoken: list[Spoken]) -> dict[str, Any]:
    """All chunks in one row."""
    return {
        "chunks": len(spoken),
        "seconds": round(sum(len(piece) for each in spoken for piece in each.raw) / 2 / SAMPLE_RATE, 1),
        "cuts": sum(each.cut is not None for each in spoken),
        "most_familiar": max(each.familiar for each in spoken),
        **quiet(spoken),
        "budget": round(max(each.budget for each in spoken), 2),
    }


if __name__ == "__main__":
    main()
