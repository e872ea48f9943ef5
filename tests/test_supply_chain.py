"""Nothing of a checkpoint is ever run."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["api", "engine", "schemas", "benchmarks", "demo"]
# Each of these runs what it reads.
RUNNERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


@cache
def calls(folder: str) -> list[tuple[str, str, dict[str, ast.expr]]]:
    """(file, name that is called, its keywords) of every call below a folder."""
    found = []
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
                found.append((str(path.relative_to(ROOT)), ast.unparse(node.func), keywords))
    return found


def says(value: ast.expr | None, expected: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is expected


@pytest.mark.parametrize("folder", FOLDERS)
def test_pickles_are_read_without_their_code(folder: str) -> None:
    loads = [(file, keywords.get("weights_only")) for file, name, keywords in calls(folder) if name == "torch.load"]
    assert folder != "engine" or loads
    assert [file for file, value in loads if not says(value, True)] == []


# What trains the demo voice reads files that it has written.
@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != "demo"])
def test_no_checkpoint_brings_its_own_code(folder: str) -> None:
    opened = [(file, keywords) for file, name, keywords in calls(folder) if name.endswith(".from_pretrained")]
    assert [file for file, keywords in opened if not says(keywords.get("trust_remote_code"), False)] == []
    trusting = [file for file, _, keywords in calls(folder) if says(keywords.get("trust_remote_code"), True)]
    assert trusting == []


@pytest.mark.parametrize("folder", ["api", "engine", "schemas"])
def test_nothing_is_imported_that_runs_what_it_reads(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not RUNNERS & {name.partition(".")[0] for name in names}, path
