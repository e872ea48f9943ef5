"""HAProxy, Envoy or nginx with the file of deploy/balancers, whose addresses and slots are replaced, on a free port."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import httpx

from benchmarks.server import END_SECONDS, POLL_SECONDS, ROOT

FILES = {"haproxy": "haproxy.cfg", "envoy": "envoy.yaml", "nginx": "nginx.conf"}
SETTLE_SECONDS = 2.5
"""Two health checks: after that a balancer knows who is ready."""


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def program(kind: str) -> str | None:
    """Where its program is: beside this Python, where Debian keeps daemons, or on the path. None: nowhere."""
    places = f"{Path(sys.executable).parent}:/usr/sbin:/usr/local/sbin"
    return shutil.which(kind, path=places) or shutil.which(kind)


def configured(kind: str, port: int, servers: Sequence[int], slots: int) -> str:
    """The shipped file with these ports of this machine. ValueError when it no longer names what is replaced."""
    text = (ROOT / "deploy" / "balancers" / FILES[kind]).read_text(encoding="utf-8")
    replaced = [(r"\b8080\b", str(port))]
    for number, server in enumerate(servers, 1):
        replaced.append((rf"lyre-{number}:8000\b", f"127.0.0.1:{server}"))
        replaced.append((rf"address: lyre-{number}, port_value: 8000", f"address: 127.0.0.1, port_value: {server}"))
    if kind == "haproxy":
        replaced.append((r"\bmaxconn 16\b", f"maxconn {slots}"))
    found = 0
    for pattern, value in replaced:
        text, count = re.subn(pattern, value, text)
        found += count
    if found != 1 + len(servers) + (kind == "haproxy"):
        raise ValueError(f"{FILES[kind]} does not name its port, servers and slots once each")
    return text


class Proxy:
    """A context: entered when it listens and has checked its servers, left when its process has ended."""

    def __init__(self, kind: str, servers: Sequence[int], slots: int, ready: int = 200) -> None:
        """`kind`: of FILES; `servers`: their three ports; `slots`: of each; `ready`: what is to become of health."""
        self._ready = ready
        self._kind, self._servers, self._slots = kind, servers, slots
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Proxy:
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / FILES[self._kind]
        file.write_text(configured(self._kind, self._port, self._servers, self._slots), encoding="utf-8")
        self._log = (Path(self._folder.name) / "log").open("w+b")
        self._process = subprocess.Popen(self._command(str(file)), stdout=self._log, stderr=subprocess.STDOUT)
        try:
            self._wait()
        except BaseException:
            # This broad because the process would outlive whatever interrupts the wait; it is raised again.
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """All that it has written so far."""
        return (Path(self._folder.name) / "log").read_text(encoding="utf-8", errors="replace")

    def _command(self, file: str) -> list[str]:
        path = program(self._kind)
        if path is None:
            raise SystemExit(f"{self._kind} is not installed")
        if self._kind == "haproxy":
            return [path, "-db", "-f", file]
        if self._kind == "nginx":
            folder = self._folder.name
            own = f"daemon off; pid {folder}/pid; error_log stderr;"
            return [path, "-p", folder, "-c", file, "-g", own]
        return [path, "-c", file, "--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id"]

    def _wait(self) -> None:
        end = time.monotonic() + END_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise SystemExit(f"{self._kind} ended at once:\n{self.log[-2000:]}")
            try:
                if httpx.get(self.url + "/health/ready", timeout=5).status_code == self._ready:
                    time.sleep(SETTLE_SECONDS)
                    return
            except httpx.TransportError:
                pass
            time.sleep(POLL_SECONDS)
        raise SystemExit(f"{self._kind} does not answer as it should:\n{self.log[-2000:]}")
