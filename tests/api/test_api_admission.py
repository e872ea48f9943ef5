"""Who is let in: refusals before the body is read, a bound on answers that are read slowly, a wait that is too long."""

import socket
from collections.abc import Callable

import httpx
import pytest

from engine import EngineConfig, QueueTimeout, SamplingParams
from tests.api.fake_engine import SPEECH, FakeEngine
from tests.api.live_server import BODY, PATIENCE, PCM, URL, LiveServer, error_of, eventually, raw_request

Launch = Callable[..., LiveServer]


def head_alone(server: LiveServer, headers: str = "") -> str:
    """What is answered to a request whose body never comes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(f"POST {URL} HTTP/1.1\r\nhost: x\r\n{headers}content-length: 9\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"}}"):
            part = connection.recv(65536)
            assert part, answer
            answer += part
        return answer.decode().lower()


@pytest.fixture
def full(launch: Launch) -> LiveServer:
    """A server with keys, whose engine has no room."""
    engine = FakeEngine(EngineConfig(max_concurrency=1, max_queue=0))
    server = launch(engine, api_keys=("key",))
    engine.submit("Somebody else's.", "tara", SamplingParams())
    return server


def test_a_full_server_refuses_before_the_body_comes(full: LiveServer) -> None:
    answer = head_alone(full, "authorization: Bearer key\r\n")
    assert answer.startswith("http/1.1 503")
    assert "retry-after: 2\r\n" in answer
    assert '"code":"overloaded"' in answer


def test_a_full_server_tells_nobody_without_a_key(full: LiveServer) -> None:
    assert head_alone(full).startswith("http/1.1 401")
    assert head_alone(full, "authorization: Bearer wrong\r\n").startswith("http/1.1 401")


def test_a_refused_request_leaves_its_connection_whole(full: LiveServer) -> None:
    with httpx.Client(base_url=full.url, headers={"authorization": "Bearer key"}, timeout=PATIENCE) as client:
        assert [client.post(URL, json=BODY).status_code for _ in range(3)] == [503] * 3
        assert client.get("/health/ready").status_code == 200


def test_a_server_that_cannot_speak_refuses_before_the_body_comes(launch: Launch) -> None:
    engine = FakeEngine()
    engine.may_start.clear()
    server = launch(engine, ready=False)
    assert head_alone(server).startswith("http/1.1 503")
    engine.may_start.set()


def test_answers_open_at_once_have_a_bound(launch: Launch) -> None:
    engine = FakeEngine()
    engine.plan.hold_at = 1
    server = launch(engine, max_open=2)
    with raw_request(server) as one, raw_request(server) as other:
        assert one.recv(10)
        assert other.recv(10)
        refused = httpx.post(server.url + URL, json=PCM)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert len(engine.streams) == 2
        assert httpx.get(server.url + "/health/ready").status_code == 200
    engine.plan.hold_at = None
    assert eventually(lambda: httpx.post(server.url + URL, json=PCM).content == b"".join(SPEECH))


def test_a_wait_that_is_too_long_is_503_and_says_when(client: httpx.Client, engine: FakeEngine) -> None:
    engine.plan.fail_at, engine.plan.error = 0, QueueTimeout(5.0, retry_after=3.2)
    answer = client.post(URL, json=PCM)
    error = error_of(answer)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "4")
    assert (error["type"], error["code"]) == ("server_error", "timeout")
    assert "5 s" in error["message"]


def test_a_hang_fails_liveness_until_it_is_over(client: httpx.Client, engine: FakeEngine) -> None:
    engine.hung = True
    answer = client.get("/health/live")
    engine.hung = False
    assert (answer.status_code, answer.json()) == (503, {"status": "hung"})
    assert client.get("/health/live").status_code == 200
