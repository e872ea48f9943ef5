"""Cases 1 and 2: clients that leave, at any moment and in any way, leave nothing behind."""

from __future__ import annotations

import argparse
import asyncio
import json

import pytest

from benchmarks.disconnects import measure
from benchmarks.target import Target


def test_two_hundred_disconnects_leave_nothing_behind(shared: Target, capsys: pytest.CaptureFixture[str]) -> None:
    before = shared.outcomes()
    args = argparse.Namespace(count=200, at_once=16, bound=30.0, seed=7, loose=False)
    status = asyncio.run(measure(shared, args))
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (status, told["wrong"]) == (0, [])
    assert {row["held"] for row in told["rows"]} == {"running", "waiting", "files", "threads", "tasks", "rows"}
    assert told["listeners"]["whole"] > 0
    seen = shared.outcomes() - before
    # Those in the middle of an answer, at the least; who left before the end of its head was never a request.
    assert seen["client_disconnect"] >= sum(
        told["kinds"][f"{point}, {how}"] for point in ("stream", "events") for how in ("close", "reset")
    )
    assert seen["error"] == 0
    assert seen["ok"] >= told["listeners"]["whole"]
