"""The soak's verdict finds what grew, what was lost and what died."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak import Rest, Round, row, verdict
from benchmarks.vitals import Vitals, engines, vitals

BOUNDS = {"server_mib": 32.0, "engine_mib": 32.0, "gpu_mib": 32.0, "server_files": 2.0}
Change = Callable[[Rest], Rest]


def judged(change: Change = lambda held: held, **last_round: Any) -> list[str]:
    """The verdict over six steady rounds, the last of which is changed."""
    held = Rest(Vitals((1,), 90.0, 26, 4), Vitals((2,), 600.0, 15, 10), gpu=9000.0, busy=0)
    rests = [held] * 6 + [change(held)]
    rounds = [Round() for _ in range(5)] + [Round(**last_round)]
    return verdict([row(i + 1, done, rests[i + 1]) for i, done in enumerate(rounds)], rests, BOUNDS)


def test_a_steady_server_is_well() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda held: replace(held, server=replace(held.server, rss_mib=123.0)), "server_mib grew from 90.0 to 123.0"),
        (lambda held: replace(held, engine=replace(held.engine, rss_mib=633.0)), "engine_mib grew"),
        (lambda held: replace(held, gpu=9033.0), "gpu_mib grew"),
        (lambda held: replace(held, server=replace(held.server, files=29)), "server_files grew"),
        (lambda held: replace(held, busy=1), "1 requests held a place after round 6"),
        (lambda held: replace(held, engine=replace(held.engine, pids=(3,))), "a process was replaced"),
        (lambda held: replace(held, engine=replace(held.engine, pids=())), "there is no engine process"),
    ],
)
def test_what_is_wrong_is_named(change: Change, named: str) -> None:
    assert any(named in line for line in judged(change))


def test_faults_count() -> None:
    assert judged(counts=Counter(faults=2)) == ["2 faults in round 6"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_vitals_are_those_of_the_processes(tmp_path: Path) -> None:
    me = (os.getpid(),)
    before = vitals(me)
    opened = [(tmp_path / str(i)).open("w") for i in range(5)]
    ballast = bytearray(os.urandom(1)) * (64 * 2**20)
    after = vitals(me)
    assert after.files - before.files == 5
    assert after.rss_mib - before.rss_mib > 60
    assert len(ballast) == 64 * 2**20
    for file in opened:
        file.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_engine_processes_are_found_among_the_children() -> None:
    others = engines(os.getpid())  # another test's may still be leaving
    code = "import time; time.sleep(60)"
    children = [subprocess.Popen([sys.executable, "-c", code, *name]) for name in (["engine.worker"], ["other"])]
    try:
        assert set(engines(os.getpid())) - set(others) == {children[0].pid}
    finally:
        for child in children:
            child.kill()
            child.wait()
