"""`lyre` in a process of its own, with a fake engine."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.api.live_server import PATIENCE, eventually

ROOT = Path(__file__).parents[2]
Launcher = Callable[..., "Lyre"]


class Lyre:
    """A running `lyre` and all that it has written to stderr."""

    def __init__(self, log: Path, *arguments: str, **environment: str) -> None:
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.api.fake_command", *arguments],
                cwd=ROOT,
                env={**os.environ, "COLUMNS": "200", **environment},
                stdout=subprocess.PIPE,
                stderr=stderr,
            )

    @property
    def stderr(self) -> str:
        return self.log.read_text()

    @property
    def url(self) -> str:
        """The address of a server, once it is ready."""
        assert eventually(lambda: "try: curl" in self.stderr), self.stderr
        found = re.search(r"listens on (http://\S+)", self.stderr)
        assert found
        return found[1]

    def end(self) -> int:
        """The exit code."""
        return self.process.wait(PATIENCE)
