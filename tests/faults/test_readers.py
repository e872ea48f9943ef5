"""Case 5: whoever stops reading costs no slot, and is cut in the end."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import pytest

from benchmarks.judge import WHOLE, judge, speech
from benchmarks.target import Target
from benchmarks.vitals import vitals
from benchmarks.wire import ask, request
from tests.faults.conftest import PATIENCE, PATIENT

STALLED = 6
LONG = speech(0, repeat=2) | {"max_tokens": 280}


@pytest.fixture
def deaf() -> Iterator[Callable[[Target], None]]:
    """`deaf(server)`: a client that asks, and reads nothing."""
    with ExitStack() as stack:

        def connect(found: Target) -> None:
            parts = urlsplit(found.url)
            connection = stack.enter_context(closing(socket.socket()))
            # As little as possible may wait on its way: the kernel's buffers of both ends are made for such segments.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            connection.connect((parts.hostname, parts.port))
            connection.sendall(request(found.url, LONG))

        yield connect


def test_those_who_stop_reading_hold_no_slot(launch: Callable[..., Target], deaf: Callable[[Target], None]) -> None:
    found = launch("--max-queue", "16", "--send-timeout", "3", *PATIENT)
    assert found.pid is not None
    before = vitals((found.pid,)).rss_mib
    for _ in range(STALLED):
        deaf(found)
    # All of them, and more than there are slots, are before this one.
    body = speech(1) | {"max_tokens": 70}
    assert judge(body, asyncio.run(ask(found.url, body, patience=PATIENCE)), None) == WHOLE
    end = time.monotonic() + PATIENCE
    # Whoever was cut is counted before the engine has confirmed it.
    while (found.outcomes().total() < STALLED + 1 or found.health()["running"]) and time.monotonic() < end:
        time.sleep(0.1)
    assert found.health()["running"] == found.health()["waiting"] == 0
    assert found.outcomes() == {**dict.fromkeys(found.outcomes(), 0), "stalled": STALLED, "ok": 1}
    assert vitals((found.pid,)).rss_mib - before < 50
