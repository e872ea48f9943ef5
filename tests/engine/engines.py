"""What the tests of engines and their processes share: what is asked of them, and how it is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine import Engine, SamplingParams, SpeechStream

LONG = "A text that takes a while to say, as it goes on and on. " * 40  # longer than any test
SHORT = SamplingParams(seed=1, max_tokens=42)
PATIENCE = 60  # seconds until something that should have happened counts as missing
Workers = list[asyncio.subprocess.Process]
Launch = Callable[..., Engine]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def impatient(engine: Engine, seconds: float = 1.0) -> None:
    """From now on so much silence of the first process is a hang. Another one's may be a machine that is busy."""
    vars(vars(engine)["_replicas"][0])["_watchdog"].limit = seconds


async def started(engine: Engine) -> Engine:
    await asyncio.wait_for(engine.start(), PATIENCE)
    return engine


async def heard(stream: SpeechStream) -> bytes:
    return b"".join([piece async for piece in stream])
