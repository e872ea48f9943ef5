"""schemathesis draws requests, right and wrong, from the server's own document and holds the answers against it.

Not part of the test suite: `make fuzz`. A real server with the demo voice, keys on, a fixed seed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.live_server import LiveServer
from tests.fuzz.conftest import KEY

ROOT = Path(__file__).parents[2]
EXAMPLES = 600
"""Drawn for each operation; those without parameters have only a few to draw."""

CASES = 2000
"""Fewer than this would mean that the document has lost something to draw from."""


@pytest.mark.timeout(1200)
def test_every_answer_is_as_documented(fuzzed: LiveServer, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command += ["run", f"{fuzzed.url}/openapi.json", "--checks", "all", "--phases", "examples,coverage,fuzzing"]
    command += ["--max-examples", str(EXAMPLES), "--seed", "1", "--header", f"Authorization: Bearer {KEY}"]
    command += ["--report-json-path", str(report), "--no-color", "--continue-on-failure"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)  # noqa: T201 - what was drawn, and how to repeat what failed
    assert done.returncode == 0
    assert json.loads(report.read_text())["test_cases"]["generated"] >= CASES
