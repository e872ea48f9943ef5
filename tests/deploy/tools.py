"""Programs that the deployment's tests run: looked for beside this Python, then in PATH. In CI none may be missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"


def need(name: str) -> str:
    """The path of a program; skips the test without it, or fails it where CI is set."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        missing = f"{name} is not installed (.ci/packages installs what is missing, as root on Debian)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def run(name: str, *arguments: str | Path, cwd: Path = ROOT, stdin: str | None = None) -> str:
    """What a program prints; fails the test with all that it said when it is not content."""
    done = subprocess.run(
        [need(name), *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{name} {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}"
    return done.stdout
