"""Cases 18 and 19: noise, TLS, scanners, slow and idle connections, all at once, and nobody else notices."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter

import anyio
import pytest

from benchmarks.disconnects import SPARE
from benchmarks.hostile import EXPECTED, PROBED, Orders, attack, phase
from benchmarks.judge import references
from benchmarks.load import ready
from benchmarks.target import Target
from tests.faults.conftest import PATIENCE


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_attacks_are_answered_or_cut_and_everybody_else_is_served(shared: Target) -> None:
    spoken = await references(shared.url, PROBED)
    base, wrong = shared.held(), list[str]()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as others:
        others.submit(ready).result()
        end = perf_counter() + 8.0
        attackers = others.submit(attack, Orders(shared.url, end, idle=1000, slow=50, rate=20.0))
        await phase("attacked", shared.url, spoken, end, wrong)
        while not attackers.done():
            await anyio.sleep(0.05)
        got = attackers.result()
    # Health checks included: any status but 200 and any request that is not whole to the sample.
    assert wrong == []
    assert {name for name, _ in got} == set(EXPECTED), "each kind has been tried"
    assert [(name, what) for name, what in got if what not in EXPECTED[name]] == []
    assert sum(count for (name, _), count in got.items() if name == "idle") == 1000
    with anyio.fail_after(PATIENCE):
        while any(now > base[name] + SPARE.get(name, 0) for name, now in shared.held().items()):
            await anyio.sleep(0.1)
