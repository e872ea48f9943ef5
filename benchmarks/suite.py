"""What `lyre bench` runs: benchmarks one after another, each in a process of its own, their JSON documents collected.

No torch in this process. A benchmark's table goes to the terminal as it comes; its last line is its document.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.report import NOT_HERE, commit, machine
from benchmarks.serve import about_server
from benchmarks.server import PYTHON_MODULE, OwnServer, ServerFailed, environment_with_us

PARTS: Final = ("decode", "codec", "prefill", "startup", "serve")
CAPACITIES: Final = (1, 4, 16, 64, 128, 256, 320, 400, 512)
"""Streams at once that are tried, as far as the server takes them, and as many as it takes."""


@dataclass(frozen=True)
class Plan:
    """What is measured. `flags`: settings of `lyre serve`, as given; `url`: a server that runs already."""

    flags: Mapping[str, str]
    url: str | None = None
    key: str | None = None
    concurrency: tuple[int, ...] | None = None
    """Streams at once in the table of texts; None: 1 and 16, on a CPU 1 and 4."""
    quick: bool = False

    @property
    def command_line(self) -> list[str]:
        """The flags as `lyre serve` takes them."""
        return [f"--{name.replace('_', '-')}={value}" for name, value in self.flags.items()]


@dataclass
class Report:
    """Documents by name; what could not run here, and what broke."""

    results: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As one JSON file."""
        about = {"commit": commit(), "machine": machine(), "skipped": self.skipped, "failed": self.failed}
        path.write_text(json.dumps({**about, "results": self.results}, indent=1) + "\n", encoding="utf-8")


def run_parts(parts: Sequence[str], plan: Plan) -> Report:
    """Runs them all, whatever breaks in between."""
    report = Report()
    for part in parts:
        if part == "serve":
            _serve(plan, report)
        else:
            _run(part, part, dict(_arguments(plan))[part], report)
    return report


def _arguments(plan: Plan) -> Iterator[tuple[str, list[str]]]:
    # The parts of a model are measured with random weights of its shape.
    shape = ["--model", plan.flags["model"]] if plan.flags.get("load_format") == "dummy" else []
    yield "decode", [*shape, *(["--frames", "8", "--batch", "1", "16"] if plan.quick else [])]
    yield "codec", ["--times", "8", "--batch", "1", "16"] if plan.quick else []
    yield "prefill", [*shape, *(["--times", "8"] if plan.quick else [])]
    yield "startup", ["--times", "1" if plan.quick else "3", "--", *plan.command_line]


def _serve(plan: Plan, report: Report) -> None:
    """The table of texts, then how many streams play in real time."""
    if plan.url:
        _serve_at(plan.url, plan, report)
        return
    try:
        with OwnServer(plan.command_line) as server:
            print("lyre serve", *plan.command_line, flush=True)
            server.wait_ready()
            _serve_at(server.url, plan, report)
    except ServerFailed as error:
        print(f"the server did not start:\n{error}", file=sys.stderr)
        report.failed.append("serve")


def _serve_at(url: str, plan: Plan, report: Report) -> None:
    where = ["--url", url, *(["--key", plan.key] if plan.key else [])]
    server = about_server(url, plan.key)
    slots = server["slots"]
    wanted = plan.concurrency or ((1, 4) if server["device"] == "cpu" else (1, 16))
    counts = dict.fromkeys(str(min(count, slots)) for count in wanted)
    table = ["--requests", "2", "--texts", "short", "--ramp", "0.5"] if plan.quick else ["--library"]
    _run("serve", "serve", [*where, "--concurrency", *counts, *table], report)
    capacities = [str(count) for count in (*(count for count in CAPACITIES if count < slots), slots)]
    capacity = ["--duration", "1", "--seconds", "1", "--ramp", "0.5"] if plan.quick else []
    _run("capacity", "serve", [*where, "--capacity", "--concurrency", *capacities, *capacity], report)


def _run(name: str, module: str, arguments: Sequence[str], report: Report) -> None:
    """`python -m benchmarks.<module>`: its lines shown, its document kept."""
    print(f"\n== {name}", flush=True)
    command = [*PYTHON_MODULE, f"benchmarks.{module}", *arguments]
    environment = {**environment_with_us(), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                report.results[name] = json.loads(line)
            else:
                print(line, end="", flush=True)
    if process.returncode == NOT_HERE:
        report.skipped.append(name)
    elif process.returncode:
        report.failed.append(name)
