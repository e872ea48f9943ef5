"""The sockets between the two processes, both ends in one: lists stay whole and in order, and no news is missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine import EngineUnavailable
from engine.link import ServerLink, WorkerLink
from engine.messages import Audio, Cancel, Finished, FromEngine, Stop

pytestmark = pytest.mark.anyio

PATIENCE = 20


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerLink]:
    link = ServerLink(tmp_path)
    yield link
    link.close()


@pytest.fixture
def worker(server: ServerLink) -> Iterator[WorkerLink]:
    link = WorkerLink(server.worker_inbox, server.worker_outbox)
    yield link
    link.close()


class Reader:
    """Reads what the worker sends until it dies; `lists` in the order of their coming."""

    def __init__(self, server: ServerLink) -> None:
        self.lists: list[list[FromEngine]] = []
        self._alive = asyncio.Event()
        self.task = asyncio.create_task(self._read(server, asyncio.create_task(self._life())))

    async def _life(self) -> int:
        await self._alive.wait()
        return 0

    async def _read(self, server: ServerLink, died: asyncio.Task[int]) -> None:
        async for messages in server.batches(died):
            self.lists.append(messages)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.lists) < count:
                await asyncio.sleep(0.001)

    async def end(self) -> None:
        """The worker dies; what it has sent is read to the end."""
        self._alive.set()
        await asyncio.wait_for(self.task, PATIENCE)


async def test_what_is_sent_together_comes_together(server: ServerLink, worker: WorkerLink) -> None:
    reader = Reader(server)
    frame: list[FromEngine] = [Audio(1, b"ab", 7), Finished(1, "stop", 5, 7), Audio(2, b"cd", 14)]
    worker.send(frame)
    worker.send([Audio(2, b"ef", 21)])
    await reader.until(2)
    await reader.end()
    assert reader.lists == [frame, [Audio(2, b"ef", 21)]]


async def test_no_news_is_missed_however_they_come(server: ServerLink, worker: WorkerLink) -> None:
    reader = Reader(server)
    sent = 0
    # One by one and in bursts, while the reader sleeps and while it reads.
    for burst in (1, 1, 400, 1, 3):
        for _ in range(burst):
            sent += 1
            worker.send([Audio(sent, bytes(4096), 7)])
        await reader.until(sent)
    for _ in range(200):
        sent += 1
        worker.send([Audio(sent, b"", 7)])
        await asyncio.sleep(0)
    await reader.end()
    assert [message.request_id for messages in reader.lists for message in messages] == list(range(1, sent + 1))


async def test_the_worker_takes_all_that_is_there(server: ServerLink, worker: WorkerLink) -> None:
    reader = Reader(server)
    worker.send([Audio(0, b"", 0)])
    await reader.until(1)  # connected
    server.send(Cancel(1))
    assert worker.receive(None) == [Cancel(1)]
    assert worker.receive(0.0) == []
    server.send(Stop())
    assert worker.receive(None) == [Stop()]
    await reader.end()


async def test_a_message_to_nobody_is_refused(server: ServerLink) -> None:
    with pytest.raises(EngineUnavailable):
        server.send(Stop())
