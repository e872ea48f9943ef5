"""Case 24: a clock that jumps changes no deadline, for nothing that waits looks at one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WALL = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}
TOLD = {"api/context.py", "api/trace.py", "api/doctor/machine.py", "api/doctor/remote.py"}
"""They tell clients, traces or people what time it is, and wait for nothing."""


def wall_clocks(source: str) -> list[int]:
    """The lines that ask for the time of day."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            of = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if (of, node.attr) in WALL:
                found.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found += [node.lineno for name in node.names if ("time", name.name) in WALL]
    return sorted(found)


@pytest.mark.parametrize("folder", ["api", "engine", "schemas"])
def test_nothing_waits_by_the_time_of_day(folder: str) -> None:
    files = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / folder).rglob("*.py")}
    assert files
    assert {
        name: lines for name, path in files.items() if (lines := wall_clocks(path.read_text())) and name not in TOLD
    } == {}


def test_they_would_be_found() -> None:
    assert wall_clocks("import time\ntime.time()\ntime.monotonic()\nfrom time import time\n") == [2, 4]
    assert wall_clocks("import datetime\ndatetime.datetime.now()\n") == [2]
