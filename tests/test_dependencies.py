"""What the code imports is declared in pyproject.toml: a fresh installation brings all that runs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
OURS = {"api", "engine", "schemas", "benchmarks", "demo", "tests"}
OPTIONAL = {
    "triton": "torch's CUDA builds bring it",
    "cuda": "so do they this",
    "flash_attn": "an extra",
    "opentelemetry": "the extra otel",
    "matplotlib": "the group bench",
    "faster_whisper": "a recogniser, asked for by name",
    "openai": "its clients, where they are installed",
    "click": "rich-click's",
}


def imported(folder: str) -> Iterator[tuple[str, str]]:
    """(module, file) of every absolute import below a folder, those inside of functions included."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            yield from ((name.partition(".")[0], str(path.relative_to(ROOT))) for name in names)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def names(requirements: list[str]) -> set[str]:
    """What the requirements are of, spelt as an index spells it."""
    return {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", line)[0]).lower() for line in requirements}


@pytest.mark.parametrize("folder", ["api", "engine", "schemas", "benchmarks", "tests/api", "tests/engine"])
def test_what_is_imported_is_declared(folder: str) -> None:
    declared = names(project()["project"]["dependencies"])
    if folder.startswith("tests"):
        declared |= names(project()["dependency-groups"]["dev"])
    providers = packages_distributions()
    missing = {
        f"{module} in {file}"
        for module, file in imported(folder)
        if module not in OURS | sys.stdlib_module_names | OPTIONAL.keys()
        and not (ROOT / folder / f"{module}.py").exists()
        and not declared & names(providers.get(module, []))
    }
    assert not missing


def test_the_lock_file_has_what_is_declared_with_hashes() -> None:
    text = (ROOT / "deploy" / "requirements.lock").read_text(encoding="utf-8")
    # A package has several entries where Pythons or platforms need different versions.
    entries = [entry.split() for entry in re.split(r"\n(?=[a-z])", text) if "==" in entry.split()[0]]
    locked: dict[str, list[str]] = {}
    for name, *rest in (entry[0].split("==") + entry[1:] for entry in entries):
        assert any(word.startswith("--hash=sha256:") for word in rest), name
        locked.setdefault(name, []).append(rest[0])
    for line in project()["project"]["dependencies"]:
        requirement = Requirement(line)
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{line} is not in the lock file: make lock"
        fitting = [version for version in versions if requirement.specifier.contains(version)]
        assert fitting == versions, f"{line}: make lock"
