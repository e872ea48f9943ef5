"""Cases 6, 7 and 8: the engine process dies, hangs, or its GPU's context is lost, under streams in all slots."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import pytest

from api.settings import Settings
from benchmarks.drain import held
from benchmarks.judge import CUT, REFUSED, WHOLE, judge, name_of, references, speech
from benchmarks.outage import CALL, FORMS, REPEAT, outage
from benchmarks.target import Target
from benchmarks.vitals import engines
from benchmarks.wire import Answer, ask, get, until_heard
from tests.faults.conftest import PATIENCE

HANG_SECONDS = "5"
WATCHES = "hang_timeout" in Settings.model_fields


@pytest.fixture(scope="module")
def breaking() -> object:
    """A server that is broken again and again."""
    from benchmarks.target import target
    from tests.faults.conftest import SMALL

    with target([*SMALL, *(["--hang-timeout", HANG_SECONDS] if WATCHES else []), "--max-restarts", "5"]) as found:
        yield found


@pytest.mark.parametrize("fault", ["kill", "cuda", *(["hang"] if WATCHES else [])])
def test_an_engine_that_breaks_is_never_a_clean_end_and_comes_back(breaking: Target, fault: str) -> None:
    """What was spoken before and after is the same to the sample; callers meanwhile are told to come back."""

    async def run() -> None:
        bodies = {name_of(body): body for n in range(4) for body in [speech(n, FORMS[n], REPEAT)]}
        spoken = await references(breaking.url, [CALL, *list(bodies.values())[:1]])
        before = breaking.outcomes()
        seen = await outage(breaking, fault, 4, spoken, PATIENCE)
        assert seen.wrong == []
        assert [verdict for verdict, _ in seen.streams] == [CUT] * 4
        assert set(seen.watch.calls) <= {REFUSED, "expired", WHOLE, "failed"}
        outcomes = breaking.outcomes() - before
        assert outcomes["error"] >= 4
        assert outcomes["ok"] >= 1
        if fault == "hang":
            assert 503 in seen.watch.live, "liveness must fail while work hangs"

    asyncio.run(run())


def test_an_engine_without_work_is_not_taken_for_one_that_hangs(breaking: Target) -> None:
    assert breaking.pid is not None
    pids = engines(breaking.pid)
    with held(pids):
        end = time.monotonic() + 2 * float(HANG_SECONDS)
        while time.monotonic() < end:
            assert asyncio.run(get(breaking.url, "/health/live")) == 200
            time.sleep(0.1)
    assert engines(breaking.pid) == pids
    assert judge(CALL, asyncio.run(ask(breaking.url, CALL)), None) == WHOLE


def test_an_engine_that_dies_too_often_ends_the_server_with_an_error(launch: Callable[..., Target]) -> None:
    found = launch("--max-restarts", "0")
    assert found.own is not None
    assert found.pid is not None

    async def run() -> None:
        answer = Answer()
        stream = asyncio.create_task(ask(found.url, speech(0, repeat=6), answer))
        await until_heard([answer])
        os.kill(engines(found.pid or 0)[0], signal.SIGKILL)
        assert judge(speech(0), await stream, None) == CUT

    asyncio.run(run())
    assert found.own.wait_end(PATIENCE) == 1
    assert "giv" in found.own.words()
