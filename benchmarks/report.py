"""How every benchmark tells its figures: a table for people, and one JSON document as the last line."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NOT_HERE = 3
"""The exit status of a benchmark that this machine has no device for."""
CPU_NAME = re.compile(r"model name\s*:\s*(.+)")


def commit() -> str:
    """What is measured: the checkout's revision, "-dirty" behind it when files were changed."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=7"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, system and Python."""
    try:
        found = CPU_NAME.search(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return {
        "cpu": found[1] if found else platform.processor() or platform.machine(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest rank: the smallest of `values` that at least `share` of them do not exceed. None of no values."""
    if not values:
        return None
    # A hair less: 0.95 * 20 is a little more than 19.
    return sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]


def rounded(value: float | None, digits: int) -> float | None:
    """None stays None."""
    return None if value is None else round(value, digits)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line a row, under the first row's names."""
    names = list(rows[0]) if rows else []
    shown = [[_shown(row.get(name)) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in shown)) for i, name in enumerate(names)]
    for line in [names, *shown]:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))


def print_document(rows: Sequence[Mapping[str, Any]], **about: Any) -> None:
    """The last line: commit, machine, the command that was run, and the rows."""
    command = " ".join(["python -m", _module(), *sys.argv[1:]])
    print(json.dumps({"command": command, "commit": commit(), "machine": machine(), **about, "rows": list(rows)}))


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)


def _module() -> str:
    return f"benchmarks.{Path(sys.argv[0]).stem}"
