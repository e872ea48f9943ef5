"""Several devices behind one engine: who gets a request, who fails when a process is killed, who comes back."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable

import pytest
import torch

from engine import (
    ConfigError,
    Engine,
    EngineConfig,
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    GenerationFailed,
    SpeechStream,
)
from tests.engine.engines import LONG, PATIENCE, SHORT, Launch, Workers, heard, started, until

pytestmark = pytest.mark.anyio

CPUS = {"device": "auto", "devices": "cpu,cpu"}


async def outcome(stream: SpeechStream) -> str:
    """What the next piece is: audio, or the name of an error."""
    try:
        return "audio" if await asyncio.wait_for(anext(stream), PATIENCE) else "nothing"
    except EngineError as error:
        return type(error).__name__


# ---- two at work


@pytest.fixture(scope="module")
async def pair(engine_config: Callable[..., EngineConfig]) -> AsyncIterator[Engine]:
    """Two processes of two slots, and two places in the queue of each."""
    engine, shares = Engine(engine_config(**CPUS)), list[float]()
    await asyncio.wait_for(engine.start(lambda stage, done: shares.append(done)), PATIENCE)
    assert shares == sorted(shares), "the slowest one says how far all are"
    assert len(shares) > 3
    yield engine
    await engine.stop()


async def test_their_slots_and_queues_add_up(pair: Engine) -> None:
    assert (pair.info.slots, pair.info.device, pair.info.voices) == (4, "2 x cpu", ["ana", "ben"])
    streams = [pair.submit(LONG, "ana") for _ in range(8)]
    assert (pair.running, pair.waiting) == (4, 4)
    with pytest.raises(EngineOverloaded) as caught:
        pair.submit("One too many.", "ana")
    assert 1.0 <= caught.value.retry_after <= 30.0
    # Those in slots, and they alone, are heard.
    assert [await outcome(stream) for stream in streams[:4]] == ["audio"] * 4
    assert all(stream.output_tokens == 0 for stream in streams[4:])
    for stream in streams:
        stream.cancel()
    await until(lambda: pair.running == 0)


async def test_a_request_goes_where_fewer_are(pair: Engine) -> None:
    # In turn, so that the first and the third are on one device, and leave it empty.
    streams = [pair.submit(LONG, "ana") for _ in range(4)]
    for stream in streams[::2]:
        stream.cancel()
    await until(lambda: pair.running == 2)
    streams += [pair.submit(LONG, "ana") for _ in range(2)]
    assert pair.waiting == 0
    assert [await outcome(stream) for stream in streams[4:]] == ["audio"] * 2
    for stream in streams:
        stream.cancel()
    await until(lambda: pair.running == 0)


async def test_a_seed_gives_the_same_audio_on_each(pair: Engine) -> None:
    one, other = pair.submit("The same.", "ben", SHORT), pair.submit("The same.", "ben", SHORT)
    assert await heard(one) == await heard(other) != b""


# ---- dying


async def test_a_killed_one_fails_alone_hands_on_its_queue_and_comes_back(
    launch: Launch, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may need longer to end a process that leaves by itself.
    monkeypatch.setattr("engine.replica.STOP_SECONDS", PATIENCE)
    engine = await started(launch(**CPUS))
    gave_up = asyncio.ensure_future(engine.wait_failed())
    streams = [engine.submit(LONG, "ana") for _ in range(6)]
    assert [await outcome(stream) for stream in streams[:4]] == ["audio"] * 4
    streams[3].cancel()
    await until(lambda: engine.waiting == 1)
    assert await outcome(streams[5]) == "audio", "who was next in that queue takes the free slot"

    workers[0].send_signal(signal.SIGKILL)
    for stream in streams[0], streams[2]:
        with pytest.raises(GenerationFailed, match="on cpu ended with status -9"):
            await asyncio.wait_for(heard(stream), PATIENCE)
    # The fifth request was queued behind them: it now is behind the other device's.
    assert engine.ready
    assert (engine.running, engine.waiting) == (2, 1)
    before = streams[1].output_tokens
    await until(lambda: streams[1].output_tokens > before + 70)
    streams[5].cancel()
    assert await outcome(streams[4]) == "audio"

    # The one that is back has nothing to do yet: a request goes there.
    await until(lambda: engine.processes["ready"] == 2)
    late = engine.submit("Back again.", "ana", SHORT)
    assert engine.waiting == 0
    assert len(workers) == 3
    assert not gave_up.done()
    gave_up.cancel()

    # Both speak: drain waits for both, and stop ends both.
    for stream in streams[1], streams[4]:
        stream.cancel()
    assert not await engine.drain(0.0)
    assert await engine.drain(PATIENCE)
    assert len(await heard(late)) == 6 * 4096
    await asyncio.wait_for(engine.stop(), PATIENCE)
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0]


async def test_a_start_goes_on_without_one_that_dies_and_gives_up_with_the_last(
    launch: Launch, workers: Workers
) -> None:
    engine = launch(**CPUS, max_restarts=0)
    start = asyncio.ensure_future(engine.start())
    await until(lambda: len(workers) == 2)
    workers[0].send_signal(signal.SIGKILL)
    await asyncio.wait_for(start, PATIENCE)
    assert (engine.ready, engine.info.slots, engine.info.device) == (True, 2, "cpu")
    assert len(await heard(engine.submit("Alone.", "ana", SHORT))) == 6 * 4096

    gave_up = asyncio.ensure_future(engine.wait_failed())
    await asyncio.sleep(0)
    assert not gave_up.done()
    workers[1].send_signal(signal.SIGKILL)
    await asyncio.wait_for(gave_up, PATIENCE)
    assert not engine.ready
    assert len(workers) == 2


async def test_a_start_that_all_die_in_is_an_error(launch: Launch, workers: Workers) -> None:
    engine = launch(**CPUS)
    start = asyncio.ensure_future(engine.start())
    await until(lambda: len(workers) == 2)
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    with pytest.raises(EngineUnavailable, match="ended with status -9"):
        await asyncio.wait_for(start, PATIENCE)
    assert not engine.ready
    assert len(workers) == 2


# ---- the list


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
async def test_a_device_that_is_not_there_stops_the_start_and_names_the_list(launch: Launch, workers: Workers) -> None:
    with pytest.raises(ConfigError, match="no CUDA") as caught:
        await started(launch(device="auto", devices="0"))
    assert caught.value.field == "devices"
    assert all(worker.returncode is not None for worker in workers)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
async def test_every_gpu_speaks(launch: Launch, workers: Workers) -> None:
    count = torch.cuda.device_count()
    memory = [torch.cuda.mem_get_info(index) for index in range(count)]
    engine = await started(launch(device="auto", devices="auto", max_concurrency=1))
    assert engine.info.slots == count
    assert engine.info.device == f"{count} x {torch.cuda.get_device_name(0)}"
    if all(total - free < 2**30 for free, total in memory):  # nobody else's memory comes and goes
        # A context and the graphs of a process on each of them, and no second context on the first.
        taken = [before - torch.cuda.mem_get_info(index)[0] for index, (before, _) in enumerate(memory)]
        assert min(taken) > 100 * 2**20
        assert max(taken) < 1.25 * min(taken)
    streams = [engine.submit("The same.", "ben", SHORT) for _ in range(count)]
    assert engine.waiting == 0
    spoken = [await heard(stream) for stream in streams]
    assert len(spoken[0]) == 6 * 4096
    assert all(pcm == spoken[0] for pcm in spoken)
