"""Case 4: a client that leaves a proxy's side leaves the engine's, too."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.judge import WHOLE, judge, speech
from benchmarks.target import Target
from benchmarks.wire import Answer, Leaving, Wire, ask, request
from tests.faults.conftest import PATIENCE

CONFIG = """
defaults
    mode http
    timeout connect 5s
    timeout client 1m
    timeout server 1m
    option http-no-delay
frontend speech
    bind 127.0.0.1:{port}
    default_backend lyre
backend lyre
    server one {server}
"""


@pytest.fixture
def proxy(shared: Target, tmp_path: Path) -> Iterator[str]:
    """The address of a haproxy in front of the shared server."""
    haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if haproxy is None:
        pytest.skip("haproxy is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.format(port=port, server=urlsplit(shared.url).netloc))
    with subprocess.Popen([haproxy, "-db", "-q", "-f", str(config)]) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("heard", [0, 10_000], ids=["before the first audio", "in the middle"])
def test_who_leaves_the_proxy_leaves_the_engine(shared: Target, proxy: str, how: Leaving, heard: int) -> None:
    before = shared.outcomes()["client_disconnect"]

    async def run() -> None:
        small = speech(0) | {"max_tokens": 28}
        async with asyncio.timeout(PATIENCE):
            while judge(small, answer := await ask(proxy, small), None) != WHOLE:
                assert answer.status in (None, 503), "the proxy is still coming up"
                await asyncio.sleep(0.02)
        wire = await Wire.open(proxy)
        await wire.send(request(proxy, speech(1, repeat=8)))
        answer = Answer()
        while len(answer.body) < heard and await wire.read(answer):
            pass
        while heard == 0 and shared.health()["running"] == 0:
            await asyncio.sleep(0.005)
        wire.leave(how)

    asyncio.run(run())
    end = time.monotonic() + PATIENCE
    while (shared.held()["rows"] or shared.outcomes()["client_disconnect"] == before) and time.monotonic() < end:
        time.sleep(0.02)
    assert shared.held()["rows"] == 0
    assert shared.outcomes()["client_disconnect"] == before + 1
