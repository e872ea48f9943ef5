"""An engine process that hangs, and one that meets a fault: who is told what, and what takes its place."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from engine import (
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    GenerationFailed,
    QueueTimeout,
    SpeechStream,
)
from tests.engine.engines import LONG, PATIENCE, SHORT, Launch, Workers, heard, impatient, started, until

pytestmark = pytest.mark.anyio


async def end(stream: SpeechStream) -> type[EngineError] | None:
    """The kind of error that it ends with."""
    try:
        await asyncio.wait_for(heard(stream), PATIENCE)
    except EngineError as error:
        return type(error)
    return None


# ---- hanging


async def test_a_process_that_hangs_is_replaced_only_if_it_has_work(launch: Launch, workers: Workers) -> None:
    engine = await started(launch())
    workers[0].send_signal(signal.SIGSTOP)
    impatient(engine)
    await asyncio.sleep(1.5)
    assert (engine.ready, engine.hung) == (True, False)
    # Its time counts from here.
    late = engine.submit("Still there.", "ana", SHORT)
    await asyncio.sleep(0.2)
    impatient(engine, seconds=10.0)
    workers[0].send_signal(signal.SIGCONT)
    assert len(await asyncio.wait_for(heard(late), PATIENCE)) == 6 * 4096

    speaking = engine.submit(LONG, "ana")
    assert await anext(speaking)
    workers[0].send_signal(signal.SIGSTOP)
    impatient(engine)
    unheard, queued = engine.submit("Not yet.", "ana"), engine.submit("Nor this.", "ana")
    await until(lambda: engine.hung)
    assert (engine.ready, engine.running, engine.processes) == (False, 0, {"down": 1})
    # It may have been the cause of the hang only if it had a slot, and cannot go on once it was heard.
    assert [await end(each) for each in (speaking, unheard, queued)] == [
        GenerationFailed,
        EngineUnavailable,
        EngineUnavailable,
    ]
    await until(lambda: engine.ready)
    assert (engine.hung, engine.tally.restarts, workers[0].returncode) == (False, {"hang": 1}, -signal.SIGKILL)
    assert len(await heard(engine.submit("Back again.", "ana", SHORT))) == 6 * 4096


async def test_time_in_which_the_server_was_blocked_is_nobodys_silence(launch: Launch, workers: Workers) -> None:
    engine = await started(launch())
    stream = engine.submit(LONG, "ana")
    assert await anext(stream)
    impatient(engine, seconds=2.0)
    time.sleep(2.5)
    tokens = stream.output_tokens
    await until(lambda: stream.output_tokens > tokens + 70)
    assert (engine.hung, engine.ready, len(workers)) == (False, True, 1)
    stream.cancel()


async def test_a_process_that_cannot_be_killed_is_a_hang_and_then_done_without(
    launch: Launch, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.replica.STOP_SECONDS", 1.0)
    engine = await started(launch())
    workers[0].kill = lambda: None  # type: ignore[method-assign] - as the kernel, with a driver that is stuck
    workers[0].send_signal(signal.SIGSTOP)
    impatient(engine)
    try:
        stream = engine.submit(LONG, "ana")
        assert await end(stream) is EngineUnavailable
        assert (engine.hung, engine.ready, len(workers)) == (True, False, 1)
        await until(lambda: engine.ready)
        assert (engine.hung, engine.tally.restarts, workers[0].returncode) == (False, {"hang": 1}, None)
        assert len(await heard(engine.submit("Back again.", "ana", SHORT))) == 6 * 4096
    finally:
        os.kill(workers[0].pid, signal.SIGKILL)
        await asyncio.wait_for(workers[0].wait(), PATIENCE)


async def test_a_process_that_hangs_while_it_loads_again_is_replaced(
    launch: Launch, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await started(launch())
    monkeypatch.setattr("engine.lives.LOAD_SECONDS", 2.0)
    monkeypatch.setattr("engine.lives.LOAD_LEEWAY", 0.0)
    workers[0].kill()
    await until(lambda: len(workers) == 2)
    workers[1].send_signal(signal.SIGSTOP)
    monkeypatch.setattr("engine.lives.LOAD_SECONDS", float(PATIENCE))
    await until(lambda: engine.ready)
    assert (len(workers), workers[1].returncode) == (3, -signal.SIGKILL)
    assert engine.tally.restarts == {"death": 1, "hang": 1}


async def test_one_of_several_hangs_alone_and_its_queue_moves(launch: Launch, workers: Workers) -> None:
    engine = await started(launch(device="auto", devices="cpu,cpu", max_queue=4))
    streams = [engine.submit(LONG, "ana") for _ in range(5)]
    for stream in streams[:4]:
        assert await asyncio.wait_for(anext(stream), PATIENCE)
    workers[0].send_signal(signal.SIGSTOP)
    impatient(engine)
    await until(lambda: engine.hung)
    assert engine.ready
    assert engine.processes == {"ready": 1, "down": 1}
    assert [await end(stream) for stream in (streams[0], streams[2])] == [GenerationFailed] * 2
    streams[1].cancel()
    assert await asyncio.wait_for(anext(streams[4]), PATIENCE), "it takes the other device's free slot"
    await until(lambda: engine.processes["ready"] == 2)
    tokens = streams[3].output_tokens
    await until(lambda: streams[3].output_tokens > tokens + 70)
    streams[3].cancel()
    assert await end(streams[3]) is None
    assert (len(workers), workers[1].returncode) == (3, None)


async def test_who_came_while_a_process_hung_is_not_the_cause_and_moves_once(launch: Launch, workers: Workers) -> None:
    engine = await started(launch(device="auto", devices="cpu,cpu"))
    first, second = (engine.submit(LONG, "ana") for _ in range(2))
    assert await anext(first)
    assert await anext(second)
    workers[0].send_signal(signal.SIGSTOP)
    impatient(engine, seconds=2.0)
    late = engine.submit(LONG, "ana")
    assert late.timings.started is None
    assert await asyncio.wait_for(anext(late), PATIENCE)
    assert await end(first) is GenerationFailed
    assert vars(engine)["_suspects"].note([]) == []
    assert vars(vars(engine)["_suspects"])["_seen"] == {}
    second.cancel()
    late.cancel()


# ---- a fault


async def test_a_fault_ends_the_process_at_once_and_every_stream_with_an_error(
    launch: Launch, workers: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gate = tmp_path / "fault"
    monkeypatch.setenv("FAULT_GATE", str(gate))
    monkeypatch.setattr("engine.process.WORKER", "tests.engine.faulty_worker")
    # Nothing but the fault itself may be what ends it.
    engine = await started(launch(hang_timeout=0.0))
    streams = [engine.submit(LONG, "ana") for _ in range(3)]
    for stream in streams[:2]:
        assert await anext(stream)
    gate.touch()
    assert [await end(stream) for stream in streams] == [GenerationFailed, GenerationFailed, EngineUnavailable]
    assert workers[0].returncode == 1
    assert not engine.ready
    gate.unlink()
    await until(lambda: engine.ready)
    assert engine.tally.restarts == {"death": 1}
    assert len(await heard(engine.submit("Back again.", "ana", SHORT))) == 6 * 4096


async def test_who_was_not_heard_may_ask_again_twice(launch: Launch, workers: Workers) -> None:
    engine = await started(launch())
    ends = []
    for texts in ("Poison.", "Greeting."), ("Poison.", "Another one."), ("Poison.", "Greeting."):
        workers[-1].send_signal(signal.SIGSTOP)
        streams = [engine.submit(text, "ana") for text in texts]
        workers[-1].kill()
        ends.append([await end(stream) for stream in streams])
        await until(lambda: engine.ready)
        await heard(engine.submit("Greeting.", "ana", SHORT))
    assert ends == [[EngineUnavailable] * 2, [EngineUnavailable] * 2, [GenerationFailed, EngineUnavailable]]


# ---- slots and places


async def test_a_request_that_waits_too_long_is_told_so_and_never_spoken(launch: Launch) -> None:
    engine = await started(launch(queue_timeout=0.3))
    running = [engine.submit(LONG, "ana") for _ in range(2)]
    for stream in running:
        assert await anext(stream)
    late = engine.submit("Too late.", "ana")
    with pytest.raises(QueueTimeout, match=r"0\.3 s") as caught:
        await asyncio.wait_for(heard(late), PATIENCE)
    assert 1.0 <= caught.value.retry_after <= 30.0
    assert (late.finish_reason, late.output_tokens, engine.waiting) == ("expired", 0, 0)
    for stream in running:
        assert await anext(stream)
        stream.cancel()


async def test_a_slot_is_free_when_the_engine_says_so_and_not_before(
    launch: Launch, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await started(launch(max_queue=0))
    streams = [engine.submit(LONG, "ana") for _ in range(2)]
    for stream in streams:
        assert await anext(stream)
    # As in the middle of a frame: it does not see the messages.
    workers[0].send_signal(signal.SIGSTOP)
    streams[0].cancel()
    assert await end(streams[0]) is None
    for refused in (engine.check_room, lambda: engine.submit("One too many.", "ana")):
        with pytest.raises(EngineOverloaded):
            refused()
    workers[0].send_signal(signal.SIGCONT)
    await until(lambda: engine.running == 1)
    assert len(await heard(engine.submit("Now.", "ana", SHORT))) == 6 * 4096
    streams[1].cancel()

    # A server that leaves at once, as asyncio.run ends, takes its process along and does not wait for it to go.
    monkeypatch.setattr("engine.replica.STOP_SECONDS", 10 * PATIENCE)
    (replica,) = vars(engine)["_replicas"]
    replica.life.cancel()
    await asyncio.wait({replica.life}, timeout=PATIENCE)
    assert workers[0].returncode == -signal.SIGKILL
