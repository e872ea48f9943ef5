"""An engine process without models: every stream gets a frame of audio each 85 ms, until its text's or its own limit.

    python -m benchmarks.stand_in serve --port 8000 --max-concurrency 512

is `lyre serve` with it: what the server's own process can do, whatever the models' speed. A frame's pieces of all
streams leave at once, as those of a real batch do.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from engine.config import EngineConfig
from engine.link import WorkerLink
from engine.messages import (
    Audio,
    Cancel,
    Finished,
    FromEngine,
    Generate,
    ModelInfo,
    Ready,
    SamplingDefaults,
    Started,
    Stepped,
    Stop,
)
from engine.prompt import FRAME_TOKENS
from engine.text import frame_budget
from engine.windows import SAMPLES_PER_FRAME

FRAME_SECONDS = SAMPLES_PER_FRAME / 24_000
PIECES = 8


def pieces() -> list[bytes]:
    """A humming voice, a frame each: encoders have as much work with it as with speech."""
    time_axis = np.arange(PIECES * SAMPLES_PER_FRAME) / 24_000
    voice = np.random.default_rng(0).normal(0, 0.02, time_axis.shape)
    for k in range(1, 40):
        voice += np.sin(2 * np.pi * 120 * k * time_axis + k * k) / k
    return [piece.tobytes() for piece in (voice * 6000).astype("<i2").reshape(PIECES, -1)]


def info(config: EngineConfig) -> ModelInfo:
    """As a model would have it."""
    return ModelInfo(
        model="stand-in", codec="none", demo=False, voices=["tara", "leo"], sample_rate=24_000,
        defaults=SamplingDefaults(0.6, 0.9, 0, 1.1, 0), device="none", dtype="none", kernel="none", attention="none",
        slots=config.max_concurrency, max_context=config.max_context, parameters=0, load_seconds=0.0,
    )  # fmt: skip


def frames_of(message: Generate) -> int:
    """As random weights speak: until a limit, for they seldom end by themselves."""
    budget = sum(frame_budget(chunk.text) for chunk in message.chunks)
    return budget if message.max_tokens is None else max(1, min(budget, message.max_tokens // FRAME_TOKENS))


def run(link: WorkerLink) -> None:
    """Until `Stop`."""
    left: dict[int, int] = {}
    audio = pieces()
    due = time.monotonic()
    while True:
        if left:
            due = max(due + FRAME_SECONDS, time.monotonic() - FRAME_SECONDS)
            time.sleep(max(0.0, due - time.monotonic()))
        news: list[FromEngine] = []
        for message in link.receive(0.0 if left else None):
            match message:
                case Generate():
                    left[message.request_id] = frames_of(message)
                    news.append(Started(message.request_id))
                case Cancel():
                    left.pop(message.request_id, None)
                    link.send([Finished(message.request_id, "cancelled", 1, 1)])
                case Stop():
                    return
        if left:
            link.send([*news, Stepped(len(left), FRAME_SECONDS), *frame(left, audio)])


def frame(left: dict[int, int], audio: list[bytes]) -> Iterator[Audio | Finished]:
    """A piece for every request, and the end of those for which it was the last."""
    for number, request_id in enumerate(list(left)):
        yield Audio(request_id, audio[(number + left[request_id]) % PIECES], 1)
        left[request_id] -= 1
        if not left[request_id]:
            del left[request_id]
            yield Finished(request_id, "length", 1, 1)


def worker(inbox: str, outbox: str, config: str) -> None:
    """In the place of engine.worker's main."""
    from engine.worker import leave_with_parent  # it loads torch, which the server's process never does

    leave_with_parent()
    link = WorkerLink(inbox, outbox)
    link.send([Ready(info(msgspec.json.decode(config, type=EngineConfig)))])
    run(link)


def main() -> None:
    """`lyre`, whose engine processes are this module."""
    from api.__main__ import main as lyre  # the worker needs nothing of it

    start = asyncio.create_subprocess_exec

    async def start_stand_in(*command: str, **options: Any) -> asyncio.subprocess.Process:
        return await start(*("benchmarks.stand_in" if word == "engine.worker" else word for word in command), **options)

    asyncio.create_subprocess_exec = start_stand_in
    sys.argv[0] = "lyre"
    lyre()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        main()
    else:
        worker(*sys.argv[1:])
