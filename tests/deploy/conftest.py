"""The `lyre` under test, and a server of it for the questions that only a live one answers."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.lyre_process import ROOT, LyreProcess


def pytest_addoption(parser: pytest.Parser) -> None:
    """Another `lyre` than the one of this checkout's own environment can be tested."""
    parser.addoption("--lyre", default=ROOT / ".venv/bin/lyre", help="the `lyre` command to serve with")


def pytest_configure() -> None:
    """A developer's own settings and proxies change nothing."""
    for name in [name for name in os.environ if name.startswith("LYRE_")]:
        del os.environ[name]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"


@dataclass
class Watched:
    """A server with the demo voice, and where its metrics are."""

    process: LyreProcess
    metrics_url: str


@pytest.fixture(scope="session")
def lyre(pytestconfig: pytest.Config) -> Path:
    """The command."""
    return Path(str(pytestconfig.getoption("lyre")))


@pytest.fixture(scope="session")
def watched(lyre: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A ready server whose metrics have a port of their own, as in the manifests."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = LyreProcess(lyre, tmp_path_factory.mktemp("lyre") / "stderr", LYRE_METRICS_PORT=str(port))
    try:
        process.wait_ready()
        yield Watched(process, f"http://127.0.0.1:{port}/metrics")
    finally:
        code = process.close()
    assert code == 0
