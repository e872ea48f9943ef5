"""The server that is fuzzed."""

from collections.abc import Iterator

import pytest

from engine import Engine, EngineConfig
from tests.api.live_server import LiveServer

KEY = "sk-fuzz-0123456789"


@pytest.fixture(scope="session")
def fuzzed() -> Iterator[LiveServer]:
    """The demo voice behind the real HTTP stack; it wants a key."""
    server = LiveServer(Engine(EngineConfig(max_concurrency=4)), api_keys=(KEY,))
    server.start()
    server.wait_ready()
    yield server
    server.close()
