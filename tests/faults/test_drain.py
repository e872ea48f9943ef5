"""Case 11: SIGTERM lets those speak out who speak, and takes nobody else; a second one does not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from benchmarks.drain import bodies, drain
from benchmarks.target import Target
from tests.faults.conftest import PATIENCE


@pytest.mark.parametrize(("twice", "streams", "repeat"), [(False, 16, 1), (True, 4, 40)], ids=["once", "twice"])
def test_a_signal_drains_and_a_second_one_forces(
    launch: Callable[..., Target], twice: bool, streams: int, repeat: int
) -> None:
    found = launch("--drain-seconds", str(PATIENCE), "--max-concurrency", "16", "--hang-timeout", "0")
    asked = [body | {"max_tokens": 420 * repeat} for body in bodies(streams, repeat)]
    row = asyncio.run(drain(found, asked, twice, PATIENCE))
    assert row["wrong"] == []
    assert row["whole"] == (0 if twice else streams)
    assert row["status"] == 0
    assert found.own is not None
    # Whoever does not wait for the drain does not wait for the application's end either, which then complains.
    assert twice or "Traceback" not in found.own.words()
