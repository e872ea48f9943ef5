"""Several `lyre serve` of one kind on ports that they keep, restarted one after another as a rolling update does it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import httpx

from benchmarks.proxy import free_port
from benchmarks.server import OwnServer, ServerFailed

ASKED_SECONDS = 60.0
POLL_SECONDS = 0.02


class Fleet:
    """A context: entered when all servers are ready, left when their processes have ended."""

    def __init__(
        self, count: int, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None,
        cores: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """`arguments` of each `lyre serve`; `environment` is added to this process' own; `cores`: one for each."""
        self._arguments, self._environment = arguments, environment
        self._cores: Sequence[int | None] = cores or [None] * count
        self.ports = [free_port() for _ in range(count)]
        self._servers: list[OwnServer] = []
        self._ends = ExitStack()

    def __enter__(self) -> Fleet:
        with ExitStack() as ends:
            for index in range(len(self.ports)):
                self._servers.append(ends.enter_context(self._server(index)))
            for server in self._servers:
                server.wait_ready()
            self._ends = ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    @property
    def urls(self) -> list[str]:
        """Of the servers themselves."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def running(self) -> int:
        """Requests that hold a slot or wait for one, on all servers."""
        states = [_health(url) for url in self.urls]
        return sum(state["running"] + state["waiting"] for state in states)

    def restart_all(self) -> None:
        """One after another: drained, ended, started, ready. ServerFailed when one does not end well.

        The next one follows when the balancer has sent the last one a request, so callers must keep asking.
        """
        for index in range(len(self.ports)):
            status = self._servers[index].drain()
            if status:
                raise ServerFailed(f"a drained server ended with status {status}")
            self._servers[index] = self._ends.enter_context(self._server(index))
            self._servers[index].wait_ready()
            self._until_asked(self.urls[index])

    def _until_asked(self, url: str) -> None:
        end = time.monotonic() + ASKED_SECONDS
        while not _health(url)["running"]:
            if time.monotonic() > end:
                raise ServerFailed(f"no request came within {ASKED_SECONDS:g} s of its restart")
            time.sleep(POLL_SECONDS)

    def _server(self, index: int) -> OwnServer:
        arguments = ["--port", str(self.ports[index]), *self._arguments]
        return OwnServer(arguments, environment=self._environment, core=self._cores[index])


def _health(url: str) -> dict[str, Any]:
    return httpx.get(url + "/health", timeout=20).json()
