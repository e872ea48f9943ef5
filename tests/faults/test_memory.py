"""Case 23: not enough memory, at the start or in the middle: an error in words, and never half of a server."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks.judge import CUT, WHOLE, judge, speech
from benchmarks.probed import probe
from benchmarks.server import LISTENS, PYTHON_MODULE, environment_with_us
from benchmarks.target import Target
from benchmarks.vitals import engines
from benchmarks.wire import Answer, ask
from tests.faults.conftest import PATIENCE

ENOUGH_FOR_THE_SERVER = 600_000  # KiB of data, of which the engine needs more


def test_a_start_without_memory_is_an_error_in_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [*PYTHON_MODULE, "api", "serve", "--port", "0"]
    with log.open("wb") as errors, subprocess.Popen(
        ["bash", "-c", f'ulimit -d {ENOUGH_FOR_THE_SERVER}; exec "$@"', "bash", *command],
        stderr=errors, env=environment_with_us(),
    ) as server:  # fmt: skip
        end, ready = time.monotonic() + PATIENCE, False
        while server.poll() is None and time.monotonic() < end and not ready:
            if found := LISTENS.search(log.read_text()):
                try:
                    ready = httpx.get(found[1] + "/health/ready", timeout=5).status_code == 200
                except httpx.TransportError:
                    ready = False
            time.sleep(0.1)
        server.kill()
    assert not ready
    assert server.returncode == 1
    assert "the engine cannot run" in log.read_text()


def test_memory_that_runs_out_in_a_step_ends_the_engine_and_not_the_server(launch: Callable[..., Target]) -> None:
    found = launch()
    assert found.pid is not None
    assert found.probes is not None
    asked = speech(0, repeat=6)

    async def run() -> None:
        answer = Answer()
        stream = asyncio.create_task(ask(found.url, asked, answer))
        while not answer.body:
            await asyncio.sleep(0.01)
        probe(found.probes or Path(), engines(found.pid or 0)[0], "memory")
        assert judge(asked, await stream, None) == CUT
        end, small = time.monotonic() + PATIENCE, speech(1) | {"max_tokens": 28}
        while (word := judge(small, await ask(found.url, small), None)) != WHOLE and time.monotonic() < end:
            await asyncio.sleep(0.1)
        assert word == WHOLE

    asyncio.run(run())
    assert found.outcomes()["error"] >= 1
