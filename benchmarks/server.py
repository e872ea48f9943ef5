"""A `lyre serve` of the benchmark's own, on a free port: started, timed, watched, ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import httpx

ROOT = Path(__file__).resolve().parent.parent
LISTENS = re.compile(r"listens on (http://\S+)")
POLL_SECONDS = 0.02
END_SECONDS = 30.0
PYTHON_MODULE = (sys.executable, "-P", "-m")
"""Runs a module of ours from any folder: paths in arguments stay relative to the user's."""


def environment_with_us() -> dict[str, str]:
    """This process' environment, in which our packages are found."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


class ServerFailed(Exception):
    """The server ended before it was ready; the message is the end of what it wrote."""


class OwnServer:
    """A context: entered when the process has been started, left when it has ended."""

    def __init__(
        self, arguments: Sequence[str] = (), module: str = "api", environment: Mapping[str, str] | None = None,
        core: int | None = None,
    ) -> None:  # fmt: skip
        """`arguments` of `lyre serve`; `module` has the command; `environment` is added to this process' own.

        `core`: the only one that it and its engine run on.
        """
        self._core = core
        self._command = [*PYTHON_MODULE, module, "serve", "--port", "0", *arguments]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        # Wide, so that no line of the log is folded.
        self._environment = {**environment_with_us(), "COLUMNS": "300", **(environment or {})}
        self._stages: list[tuple[str, float]] = []
        self._ready = 0.0
        self.began = 0.0
        self.url = ""

    def __enter__(self) -> OwnServer:
        self.began = time.perf_counter()
        self._stages = [("start of the process", self.began)]
        self._process = subprocess.Popen(self._command, stderr=self._log, env=self._environment)
        if self._core is not None:
            # Long before it has threads or children, which inherit it.
            os.sched_setaffinity(self._process.pid, {self._core})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Twice: the first signal drains, the second does not wait.
        for _ in range(2):
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                time.sleep(0.2)
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def drain(self, patience: float = 120.0) -> int:
        """Asks it once to end, and waits until it has: the exit status. subprocess.TimeoutExpired."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(patience)

    @property
    def pid(self) -> int:
        """Of the process that speaks HTTP; the models are in its child."""
        return self._process.pid

    def signal(self, number: int) -> None:
        """Sends a signal to this process."""
        self._process.send_signal(number)

    def wait_end(self, patience: float) -> int | None:
        """The exit status; None when it still runs after so many seconds."""
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            return None

    def wait_ready(self, patience: float = 900.0) -> float:
        """Seconds from the start to the first 200 of /health/ready. ServerFailed when it ends, or takes too long."""
        while time.perf_counter() - self.began < patience:
            if self._process.poll() is not None:
                raise ServerFailed(self.words()[-2000:])
            if not self.url and (found := LISTENS.search(self.words())):
                self.url = found[1]
            if self.url and self._answers():
                self._ready = time.perf_counter()
                return self._ready - self.began
            time.sleep(POLL_SECONDS)
        raise ServerFailed(f"not ready after {patience:g} s: {self.words()[-2000:]}")

    @property
    def stages(self) -> list[tuple[str, float]]:
        """What it said that it was loading while it was waited for, with the seconds that each took."""
        ends = [*(moment for _, moment in self._stages[1:]), self._ready]
        return [(name, end - moment) for (name, moment), end in zip(self._stages, ends, strict=True)]

    def cpu_seconds(self) -> tuple[float, float]:
        """User and system time that this process has taken (not its child)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        tick = os.sysconf("SC_CLK_TCK")
        return int(fields[11]) / tick, int(fields[12]) / tick

    def _answers(self) -> bool:
        try:
            health = httpx.get(self.url + "/health/ready", timeout=5)
        except httpx.TransportError:
            return False
        stage = health.json().get("stage")
        if stage and stage != self._stages[-1][0]:
            self._stages.append((stage, time.perf_counter()))
        return health.status_code == 200

    def words(self) -> str:
        """All that it has written to standard error."""
        # The process writes at an offset of its own only when we do not move the shared one: read by position.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")
