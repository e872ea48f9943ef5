"""A `lyre serve` of its own process, asked only from outside: its address, its health, its request lines."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

PATIENCE = 90.0
"""Seconds after which something that should happen soon counts as missing; no test measures time with it."""

LEAVING = 25.0
"""The same for a place that a client left: less than its speech would have taken, which frees it as well."""


def eventually(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """The condition's first true value; what it last was when the patience ends."""
    deadline = time.monotonic() + patience
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


class LyreProcess:
    """The server with the demo voice on a free port; `settings` are its LYRE_* variables."""

    def __init__(self, command: Path, log: Path, **settings: str) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [command, "serve", "--port", "0"],
                cwd=ROOT,
                env=os.environ | settings,
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )

    @property
    def log(self) -> str:
        """All that it has written so far."""
        return self._log.read_text()

    @property
    def url(self) -> str:
        """Its root, without a slash."""
        listens = eventually(lambda: re.search(r"listens on (http://\S+)", self.log) or self._process.poll())
        assert isinstance(listens, re.Match), self.log
        return listens[1]

    @property
    def base_url(self) -> str:
        """What clients are given in OpenAI's place."""
        return self.url + "/v1"

    @property
    def running(self) -> int:
        """Requests whose speech is being generated."""
        return self.health()["running"]

    def health(self) -> dict[str, Any]:
        """The answer of /health, whether it is good or bad news."""
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=PATIENCE) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def wait_ready(self) -> None:
        """Returns when it speaks."""
        url = self.url
        assert eventually(lambda: self._process.poll() is not None or self.health()["status"] == "ready"), url
        assert self._process.poll() is None, self.log

    def wait_idle(self) -> None:
        """Returns when every place is free, which is soon after the last client has its speech or has left."""
        assert eventually(lambda: self.running == 0, LEAVING)

    def requests(self) -> list[dict[str, Any]]:
        """The lines of the requests that have ended, the oldest first."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def line(self, request_id: str) -> dict[str, Any]:
        """What the server says became of a request, once it is over."""
        found = eventually(lambda: [line for line in self.requests() if line["id"] == request_id])
        assert len(found) == 1, f"{len(found)} lines of {request_id!r}"
        return found[0]

    def next_line(self, known: int) -> dict[str, Any]:
        """The line of the first request to end after `known` others, for clients that tell no request id."""
        return eventually(lambda: self.requests()[known:])[0]

    def close(self) -> int:
        """Ask it to end; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(PATIENCE)
        finally:
            self._process.kill()

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
