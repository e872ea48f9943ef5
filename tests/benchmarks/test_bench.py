"""`lyre bench`: a whole run on the demo voice, and what it says where there is no GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from api.__main__ import main
from engine.config import DEMO_CHECKPOINT

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as users run it."""
    return subprocess.run(
        [sys.executable, "-m", "api", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(not (DEMO_CHECKPOINT / "lm").is_dir(), reason="the demo voice is not there")
def test_serve_on_the_demo_voice(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    done = bench("serve", "--quick", "--concurrency", "1", "--max-concurrency", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert (report["failed"], report["skipped"]) == ([], [])
    table, capacity = report["results"]["serve"], report["results"]["capacity"]
    assert table["server"]["model"] == "lyre-demo"
    assert [(row["text"], row["requests"], row["errors"]) for row in table["rows"]] == [("short", 2, 0)]
    assert table["rows"][0]["audible_p50"] >= table["rows"][0]["ttfa_p50"] > 0
    assert [row["load"] for row in capacity["rows"]] == ["1"]
    assert capacity["rows"][0]["audio_per_s"] > 0
    assert "ttfa_p95" in done.stdout


def test_a_part_for_gpus_says_so() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = bench("decode")
    assert done.returncode == 1
    assert "no CUDA device" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing"),
        (["serve", "--concurrency", "many"], "no list of numbers"),
        (["serve", "--load-format", "dummy"], "needs the name of a shape"),
    ],
)
def test_wrong_arguments_end_with_2(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["bench", *arguments], prog_name="lyre", env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert message in result.stderr
