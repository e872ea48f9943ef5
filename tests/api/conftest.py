"""Servers and clients for the tests of the HTTP side."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from engine import Engine, EngineConfig
from engine.config import DEMO_CHECKPOINT
from tests.api.fake_engine import FakeEngine, Plan
from tests.api.live_server import PATIENCE, LiveServer, eventually
from tests.api.lyre_process import Launcher, Lyre


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own LYRE_* variables change no test."""
    for name in [name for name in os.environ if name.startswith("LYRE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def launch() -> Iterator[Callable[..., LiveServer]]:
    """Starts servers of a test's own; `launch(engine, setting=value)`."""
    servers: list[LiveServer] = []

    def start(engine: FakeEngine, ready: bool = True, **settings: Any) -> LiveServer:
        servers.append(LiveServer(engine, **settings))
        servers[-1].start()
        if ready:
            servers[-1].wait_ready()
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def shared_server() -> Iterator[LiveServer]:
    """One server with a fake engine for all tests that need nothing special."""
    server = LiveServer(FakeEngine())
    server.start()
    server.wait_ready()
    yield server
    server.close()


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    """The shared server, its engine's plan fresh and its slots free."""
    engine = cast("FakeEngine", shared_server.engine)
    engine.plan = Plan()
    engine.streams.clear()
    assert eventually(lambda: engine.running == 0)
    return shared_server


@pytest.fixture
def engine(server: LiveServer) -> FakeEngine:
    """The shared server's engine."""
    return cast("FakeEngine", server.engine)


@pytest.fixture(scope="session")
def shared_client(shared_server: LiveServer) -> Iterator[httpx.Client]:
    """An HTTP client of the shared server."""
    with httpx.Client(base_url=shared_server.url, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def client(server: LiveServer, shared_client: httpx.Client) -> httpx.Client:
    """The same, with the engine's plan fresh."""
    assert server.url == str(shared_client.base_url).rstrip("/")
    return shared_client


@pytest.fixture(scope="session", params=["fake", "real"])
def any_server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    """The same tests against the fake engine and, when its checkpoint is there, the real one with the demo voice."""
    if request.param == "fake":
        yield request.getfixturevalue("shared_server")
        return
    if not (DEMO_CHECKPOINT / "lm").is_dir():
        pytest.skip("the demo voice is not there")
    server = LiveServer(Engine(EngineConfig(max_concurrency=2)))
    server.start()
    server.wait_ready()
    yield server
    server.close()


@pytest.fixture
def lyre(tmp_path: Path) -> Iterator[Launcher]:
    """Starts the command; whatever still runs after the test is killed."""
    started: list[Lyre] = []

    def launch(*arguments: str, **environment: str) -> Lyre:
        started.append(Lyre(tmp_path / f"stderr-{len(started)}", *arguments, **environment))
        return started[-1]

    yield launch
    for command in started:
        command.process.kill()
        command.process.communicate()
