"""What the pictures may be drawn from. The drawing itself needs matplotlib."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plots import beside, main


def row(load: str) -> dict[str, Any]:
    shares = {"ttfa_p50": 30.0, "ttfa_p95": None, "rtf_p50": 0.2, "rtf_p95": 0.3, "underrunning": 0.0}
    return {"load": load, **shares}


@pytest.fixture
def report(tmp_path: Path) -> Path:
    server = {"model": "orpheus-3b", "dtype": "bfloat16", "device": "NVIDIA H200"}
    capacity = {"rows": [row("1"), row("16")], "server": server, "seconds": 10.0, "commit": "abc"}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"machine": {"cpu": "one"}, "results": {"capacity": capacity}}))
    return path


def test_another_machines_figures_are_refused(report: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    ours = json.loads(report.read_text())
    other.write_text(json.dumps({"machine": {"cpu": "two"}, "rows": [row("1")]}))
    with pytest.raises(SystemExit, match="another machine"):
        beside(ours, [f"Other={other}"])
    other.write_text(json.dumps({"machine": {"cpu": "one"}, "rows": [row("1")]}))
    assert list(beside(ours, [f"Other={other}"])) == ["Lyre", "Other"]


def test_pictures_are_drawn_of_what_is_there(report: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main([str(report), "--to", str(tmp_path)]) == 0
    assert "Time to first audio" in (tmp_path / "streams.svg").read_text()
    assert not (tmp_path / "roofline.svg").exists()
