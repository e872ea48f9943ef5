"""Fixtures of the engine's tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from engine import Engine, EngineConfig


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The engine runs on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def engine_config(tiny_model: Path, native_codec: Path, kernel_cache: Path) -> Callable[..., EngineConfig]:
    """`engine_config(setting=value)`: an engine of two slots over the tiny model, whose speech never ends by itself."""

    def config(**settings: object) -> EngineConfig:
        usual: dict[str, object] = {
            "model": str(tiny_model),
            "codec": str(native_codec),
            "cache": str(kernel_cache),
            "device": "cpu",
            "max_concurrency": 2,
            "max_queue": 2,
            "queue_timeout": 60.0,
            "cpu_threads": 1,
        }
        return EngineConfig(**{**usual, **settings})  # type: ignore[arg-type]

    return config


@pytest.fixture
async def launch(engine_config: Callable[..., EngineConfig]) -> AsyncIterator[Callable[..., Engine]]:
    """`launch(setting=value)`: an engine, not started; stopped at the end of the test."""
    engines: list[Engine] = []

    def build(**settings: object) -> Engine:
        engines.append(Engine(engine_config(**settings)))
        return engines[-1]

    yield build
    for engine in engines:
        # A stop that hangs or breaks has tests of its own.
        with contextlib.suppress(Exception):
            await asyncio.wait_for(engine.stop(), 20)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.subprocess.Process]:
    """Every process that an engine starts in this test, in order."""
    started: list[asyncio.subprocess.Process] = []
    real = asyncio.create_subprocess_exec

    async def record(*arguments: object, **options: object) -> asyncio.subprocess.Process:
        process = await real(*arguments, **options)  # type: ignore[arg-type]
        started.append(process)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", record)
    return started
