"""The server's own Python, which has its packages: the one that runs these tests need not have them."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_READ = "import json, sys; from api.settings import load_settings; "
_READ += "print(load_settings({}, json.load(sys.stdin)).model_dump_json())"


def server_python(config: pytest.Config) -> str:
    """Beside the `lyre` that is tested, if there is one; else this one."""
    found = Path(str(config.getoption("--lyre", str(ROOT / ".venv/bin/lyre")))).with_name("python")
    return str(found) if found.exists() else sys.executable


def settings_of(environ: Mapping[str, str], config: pytest.Config) -> dict[str, Any]:
    """What the server makes of these variables; fails the test with its words where it refuses them."""
    done = subprocess.run(
        [server_python(config), "-c", _READ],
        input=json.dumps({name: value for name, value in environ.items() if name.startswith("LYRE_")}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
