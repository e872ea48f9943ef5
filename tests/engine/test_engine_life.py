"""How the engine starts, dies, comes back, drains and stops; each test with worker processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch

from engine import (
    CheckpointError,
    ConfigError,
    EngineConfig,
    EngineError,
    EngineUnavailable,
    GenerationFailed,
)
from engine.process import ended, start_worker
from tests.engine.engines import LONG, PATIENCE, SHORT, Launch, Workers, until

pytestmark = pytest.mark.anyio


# ---- starting


async def test_what_cannot_work_is_an_error_of_start(launch: Launch, tmp_path: Path) -> None:
    nowhere = launch(model=str(tmp_path / "no-model"))
    starts = [nowhere.start()] if torch.cuda.is_available() else [nowhere.start(), launch(device="cuda").start()]
    errors = await asyncio.wait_for(asyncio.gather(*starts, return_exceptions=True), PATIENCE)
    assert isinstance(errors[0], CheckpointError)
    assert "no-model" in str(errors[0])
    assert not nowhere.ready
    with pytest.raises(EngineUnavailable):
        nowhere.submit("Hello.", "ana")
    for error in errors[1:]:
        assert isinstance(error, ConfigError)
        assert error.field == "device"
        assert str(error).startswith("device: no CUDA")


async def test_a_path_that_no_file_system_knows_is_an_error_of_start(launch: Launch) -> None:
    # A user who does not exist, and a name that is too long.
    starts = [launch(model=model).start() for model in ("~nobody-has-this-name/voice", "x" * 5000)]
    errors = await asyncio.wait_for(asyncio.gather(*starts, return_exceptions=True), PATIENCE)
    assert [type(error) for error in errors] == [CheckpointError] * 2


async def test_relative_paths_are_those_of_the_servers_folder(
    launch: Launch, tiny_model: Path, native_codec: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "voice").symlink_to(tiny_model)
    (tmp_path / "codec").symlink_to(native_codec)
    monkeypatch.chdir(tmp_path)
    engine = launch(model="voice", codec="codec")
    await asyncio.wait_for(engine.start(), PATIENCE)
    assert engine.info.model == "voice"


async def test_a_relative_cache_is_in_the_servers_folder_whatever_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[tuple[str, ...]] = []

    async def record(*arguments: str, **options: object) -> SimpleNamespace:
        started.append(arguments)
        return SimpleNamespace(stderr=None)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", record)
    monkeypatch.chdir(tmp_path)
    for config in (EngineConfig(cache="kept"), EngineConfig(model="orpheus-3b", load_format="dummy", cache="kept")):
        await start_worker(config, "in", "out")
        assert msgspec.json.decode(started[-1][-1], type=EngineConfig).cache == str(tmp_path / "kept")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")
async def test_an_engine_process_is_not_told_the_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LYRE_API_KEYS", "open-sesame")
    monkeypatch.setenv("LYRE_API_KEYS_FILE", "/run/secrets/sesame")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    process = await start_worker(EngineConfig(), f"ipc://{tmp_path}/in", f"ipc://{tmp_path}/out")
    try:
        told = {name: Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("environ", "cmdline")}
    finally:
        process.kill()
        await process.wait()
    assert b"HF_HUB_OFFLINE=1" in told["environ"]
    assert not [name for name, text in told.items() if b"sesame" in text or b"LYRE_" in text]


async def test_a_start_that_fails_before_the_worker_is_an_error_and_no_hang(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The path of a Unix socket has room for about a hundred characters.
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    start = asyncio.ensure_future(launch().start())
    done, _ = await asyncio.wait({start}, timeout=10)
    assert done, "start() hangs"
    with pytest.raises(Exception):  # noqa: B017, PT011 - any error will do
        await start


async def test_a_progress_callback_that_fails_is_an_error_and_no_hang(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.replica.STOP_SECONDS", 0.3)

    def fail(stage: str, done: float) -> None:
        raise RuntimeError("the terminal is gone")

    start = asyncio.ensure_future(launch().start(fail))
    done, _ = await asyncio.wait({start}, timeout=PATIENCE)
    assert done, "start() hangs"
    with pytest.raises((RuntimeError, EngineError)):
        await start


async def test_a_start_after_a_stop_is_an_error_and_no_hang(launch: Launch) -> None:
    engine = launch()
    await engine.stop()
    start = asyncio.ensure_future(engine.start())
    done, _ = await asyncio.wait({start}, timeout=10)
    if not done:
        start.cancel()
    assert done, "start() hangs"
    with pytest.raises(EngineError):
        await start


# ---- dying


async def test_a_killed_worker_is_replaced_until_it_has_died_too_often(launch: Launch, workers: Workers) -> None:
    engine = launch(max_restarts=1)
    await asyncio.wait_for(engine.start(), PATIENCE)
    gave_up = asyncio.ensure_future(engine.wait_failed())
    running, waiting = [engine.submit(LONG, "ana") for _ in range(2)], engine.submit(LONG, "ana")
    for stream in running:
        assert await anext(stream)
    workers[0].send_signal(signal.SIGKILL)
    # What ran may be the cause and must not come back by itself; what waited cannot be.
    for stream, error in ((running[0], GenerationFailed), (running[1], GenerationFailed), (waiting, EngineUnavailable)):
        with pytest.raises(error):
            async for _ in stream:
                pass
    assert not engine.ready
    assert (engine.running, engine.waiting) == (0, 0)
    with pytest.raises(EngineUnavailable) as caught:
        engine.submit("Hello.", "ana")
    assert caught.value.retry_after is not None
    assert engine.info.voices == ["ana", "ben"], "what was loaded is still known"

    await asyncio.wait_for(until(lambda: engine.ready), PATIENCE)
    assert len([piece async for piece in engine.submit("Back again.", "ana", SHORT)]) > 2
    assert not gave_up.done()

    workers[1].send_signal(signal.SIGKILL)
    await asyncio.wait_for(gave_up, PATIENCE)
    assert not engine.ready
    with pytest.raises(EngineUnavailable):
        engine.submit("Hello.", "ana")
    assert len(workers) == 2


async def test_why_a_worker_broke_is_logged_at_every_level(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.py").write_text("import sys; print('loading', file=sys.stderr)\nraise OSError('no card')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("engine.process.WORKER", "broken")
    process = await start_worker(EngineConfig(log_format="json"), "in", "out")
    await asyncio.wait_for(process.wait(), PATIENCE)
    await asyncio.wait_for(until(lambda: "no card" in caplog.text), PATIENCE)
    told = [(record.levelname, record.message) for record in caplog.records if record.name == "engine.process"]
    assert told[0] == ("WARNING", "loading")
    assert told[1] == ("ERROR", "Traceback (most recent call last):")
    assert told[-1] == ("ERROR", "OSError: no card")
    assert {level for level, _ in told[1:]} == {"ERROR"}


async def test_a_death_is_noticed_whoever_holds_the_pipes() -> None:
    """As a compiler does that the process had started: it lives on, and has inherited them."""
    script = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid, flush=True)"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, **pipes)
    assert process.stdout is not None
    left = int(await process.stdout.readline())
    try:
        assert await asyncio.wait_for(ended(process), PATIENCE) == 0
    finally:
        os.kill(left, signal.SIGKILL)
    await process.communicate()


async def test_between_a_death_and_its_notice_only_engine_errors_come(launch: Launch, workers: Workers) -> None:
    engine = launch(max_restarts=0)
    await asyncio.wait_for(engine.start(), PATIENCE)
    stream = engine.submit(LONG, "ana")
    assert await anext(stream)
    workers[0].send_signal(signal.SIGKILL)
    # The event loop sleeps meanwhile: the sockets know of the death, the engine does not yet.
    time.sleep(0.5)
    strange: dict[str, Exception] = {}
    for name, act in (("cancel", stream.cancel), ("submit", lambda: engine.submit("Hello.", "ana"))):
        try:
            act()
        except EngineError:
            pass
        except Exception as error:  # noqa: BLE001 - what is looked for
            strange[name] = error
    try:
        await asyncio.wait_for(engine.stop(), PATIENCE)
    except Exception as error:  # noqa: BLE001 - what is looked for
        strange["stop"] = error
    assert strange == {}
    assert engine.running == 0


SERVER = """
import asyncio, sys
import msgspec
from engine import Engine, EngineConfig

start_process = asyncio.create_subprocess_exec

async def announced(*arguments, **options):
    process = await start_process(*arguments, **options)
    print(process.pid, flush=True)
    return process

async def main():
    asyncio.create_subprocess_exec = announced
    engine = Engine(msgspec.json.decode(sys.argv[1], type=EngineConfig))
    await engine.start()
    stream = engine.submit("A text that takes a while to say, as it goes on and on. " * 4, "ana")
    await anext(stream)
    print("speaking", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def test_a_server_that_is_killed_takes_its_worker_along(engine_config: Callable[..., EngineConfig]) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, msgspec.json.encode(engine_config()).decode()],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    with server:
        assert server.stdout is not None
        worker = int(server.stdout.readline())
        try:
            assert server.stdout.readline() == b"speaking\n"
            server.kill()
            # The worker has inherited standard error: that is at its end when the worker is gone, too.
            _, errors = server.communicate(timeout=PATIENCE)
            assert b"Traceback" not in errors
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


# ---- leaving


async def test_drain_waits_for_what_runs_and_stop_leaves_nothing_behind(
    launch: Launch, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as sockets:
        monkeypatch.setattr(tempfile, "tempdir", sockets)
        # A busy machine may need longer to end a process that leaves by itself.
        monkeypatch.setattr("engine.replica.STOP_SECONDS", PATIENCE)
        engine = launch()
        await asyncio.wait_for(engine.start(), PATIENCE)
        endless, short = engine.submit(LONG, "ana"), engine.submit("Hi.", "ana", SHORT)
        assert not await engine.drain(0.0)
        assert not engine.ready
        with pytest.raises(EngineUnavailable):
            engine.submit("Too late.", "ana")
        assert len(b"".join([piece async for piece in short])) == 6 * 4096
        endless.cancel()
        # It returns when the last one has ended, not when its time is over.
        assert await asyncio.wait_for(engine.drain(10 * PATIENCE), PATIENCE)

        assert len(list(Path(sockets).iterdir())) == 1
        await asyncio.wait_for(engine.stop(), PATIENCE)
        assert list(Path(sockets).iterdir()) == []
    assert workers[0].returncode == 0
    with pytest.raises(EngineUnavailable):
        engine.submit("Hello.", "ana")
    await asyncio.wait_for(engine.stop(), PATIENCE)
    assert len(workers) == 1


async def test_stop_ends_a_worker_that_hangs_and_fails_what_runs(
    launch: Launch, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.replica.STOP_SECONDS", 1.0)
    engine = launch()
    await asyncio.wait_for(engine.start(), PATIENCE)
    stream = engine.submit(LONG, "ana")
    assert await anext(stream)
    workers[0].send_signal(signal.SIGSTOP)
    stop = asyncio.ensure_future(engine.stop())
    done, _ = await asyncio.wait({stop}, timeout=PATIENCE)
    hung = not done
    if hung:
        workers[0].kill()
        await stop
    assert not hung, "stop() waits for ever"
    assert workers[0].returncode == -signal.SIGKILL
    with pytest.raises(GenerationFailed):
        async for _ in stream:
            pass


async def test_stop_during_the_start_does_not_wait_for_its_end(
    launch: Launch, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.replica.STOP_SECONDS", 3.0)
    engine = launch()
    start = asyncio.ensure_future(engine.start())
    await asyncio.wait_for(until(lambda: bool(workers)), PATIENCE)
    # In place of a load that takes minutes.
    workers[0].send_signal(signal.SIGSTOP)
    stop = asyncio.ensure_future(engine.stop())
    done, _ = await asyncio.wait({stop}, timeout=PATIENCE)
    hung = not done
    if hung:
        workers[0].kill()
        await stop
    with pytest.raises(EngineError):
        await asyncio.wait_for(start, PATIENCE)
    assert not hung, "stop() waits for the load"
    assert not engine.ready
