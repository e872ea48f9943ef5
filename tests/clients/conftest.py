"""Two servers for all clients: an open one, and one that wants a key and speaks for one client at a time."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.lyre_process import ROOT, LyreProcess
from tests.clients.spoken import LONG, SENTENCE

KEY = "sk-lyre-0123456789abcdef"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Another server than the one of this checkout's own environment can be tested."""
    parser.addoption("--lyre", default=ROOT / ".venv/bin/lyre", help="the `lyre` command to serve with")


def pytest_configure() -> None:
    """A developer's own settings, keys and proxies change nothing."""
    for name in [name for name in os.environ if name.startswith(("LYRE_", "OPENAI_", "AZURE_OPENAI_"))]:
        del os.environ[name]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """None of the clients runs on another."""
    return "asyncio"


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LyreProcess]:
    """A server as `make serve` starts it."""
    yield from _served(pytestconfig, tmp_path_factory)


@pytest.fixture(scope="session")
def guarded_server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LyreProcess]:
    """A server that asks for KEY, speaks for one client at a time and lets nobody wait."""
    settings = {"LYRE_API_KEYS": KEY, "LYRE_MAX_CONCURRENCY": "1", "LYRE_MAX_QUEUE": "0"}
    yield from _served(pytestconfig, tmp_path_factory, **settings)


@pytest.fixture
def guarded(guarded_server: LyreProcess) -> LyreProcess:
    """The same, with its one place free."""
    guarded_server.wait_idle()
    return guarded_server


def _served(config: pytest.Config, folders: pytest.TempPathFactory, **settings: str) -> Iterator[LyreProcess]:
    command = Path(str(config.getoption("lyre")))
    process = LyreProcess(command, folders.mktemp("lyre") / "stderr", **settings)
    try:
        process.wait_ready()
        yield process
    finally:
        code = process.close()
    assert code == 0
    # Whatever clients do, it is an answer or a line, and never a text or a key.
    for secret in ("Traceback", SENTENCE[:20], LONG[:20], KEY):
        assert secret not in process.log
