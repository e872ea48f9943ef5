"""What breaks after the status line, and clients that leave, stop reading or come too many."""

import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from engine import EngineConfig
from tests.api.fake_engine import CHUNK, SPEECH, FakeEngine
from tests.api.live_server import BODY, PCM, URL, LiveServer, error_of, eventually, raw_request


@pytest.mark.parametrize("audio_format", ["pcm", "wav", "mp3", "opus", "aac", "flac"])
def test_a_failure_after_the_first_byte_never_looks_complete(
    client: httpx.Client, engine: FakeEngine, audio_format: str
) -> None:
    engine.plan.fail_at = 4
    received = bytearray()

    def read() -> None:
        with client.stream("POST", URL, json=BODY | {"response_format": audio_format}) as answer:
            assert answer.status_code == 200
            for part in answer.iter_raw():
                received.extend(part)

    with pytest.raises(httpx.RemoteProtocolError):
        read()
    assert received


def test_the_audio_before_a_failure_arrives(client: httpx.Client, engine: FakeEngine) -> None:
    engine.plan.fail_at = 3
    received = bytearray()

    def read() -> None:
        with client.stream("POST", URL, json=PCM) as answer:
            for part in answer.iter_raw():
                received.extend(part)

    with pytest.raises(httpx.RemoteProtocolError):
        read()
    assert bytes(received) == b"".join(SPEECH[:3])


def test_sse_tells_the_failure_and_aborts(client: httpx.Client, engine: FakeEngine) -> None:
    engine.plan.fail_at = 2
    received = bytearray()

    def read() -> None:
        with client.stream("POST", URL, json=PCM | {"stream_format": "sse"}) as answer:
            for part in answer.iter_raw():
                received.extend(part)

    with pytest.raises(httpx.RemoteProtocolError):
        read()
    last = bytes(received).split(b"\r\n\r\n")[-2]
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert b"[DONE]" not in received
    assert b"speech.audio.done" not in received


def test_one_failure_leaves_the_others_alone(client: httpx.Client, engine: FakeEngine) -> None:
    engine.plan.fail_at = 2
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(URL, json=PCM)
    engine.plan.fail_at = None
    assert client.post(URL, json=PCM).content == b"".join(SPEECH)
    assert eventually(lambda: engine.running == 0)


def test_a_client_that_leaves_in_the_middle_frees_its_slot(client: httpx.Client, engine: FakeEngine) -> None:
    engine.plan.endless, engine.plan.delay = True, 0.002
    with client.stream("POST", URL, json=PCM) as answer:
        next(answer.iter_raw())
    assert engine.streams[-1].cancelled.wait(20)
    assert eventually(lambda: engine.running == 0)


def test_a_client_that_leaves_while_the_model_thinks_frees_its_slot(server: LiveServer, engine: FakeEngine) -> None:
    engine.plan.hold_at = 4
    with raw_request(server) as connection:
        assert connection.recv(10)
    assert eventually(lambda: engine.streams[-1].cancelled.is_set())


def test_a_client_that_leaves_before_the_first_audio_frees_its_slot(server: LiveServer, engine: FakeEngine) -> None:
    engine.plan.hold_at = 0
    with raw_request(server):
        assert eventually(lambda: engine.running == 1)
    assert eventually(lambda: engine.streams[-1].cancelled.is_set())
    assert eventually(lambda: engine.running == 0)


def test_a_client_that_leaves_during_its_upload_asks_for_nothing(server: LiveServer, engine: FakeEngine) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
    assert httpx.post(server.url + URL, json=BODY).status_code == 200
    assert len(engine.streams) == 1


def test_many_disconnects_leave_nothing_behind(server: LiveServer, engine: FakeEngine) -> None:
    engine.plan.endless, engine.plan.delay = True, 0.002
    for count in range(1, 31):
        with raw_request(server) as connection:
            assert connection.recv(count * 100)
    assert eventually(lambda: engine.running == 0 and engine.waiting == 0)
    assert all(stream.cancelled.is_set() for stream in engine.streams)
    assert eventually(lambda: not server.server.server_state.tasks)


def test_a_stalled_reader_loses_its_slot(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    engine.plan.endless, engine.plan.delay = True, 0.0001
    server = launch(engine, send_timeout=0.2)
    with raw_request(server, SO_RCVBUF=4096) as connection:
        assert connection.recv(10)
        assert engine.streams[-1].cancelled.wait(20)
        assert httpx.get(server.url + "/health/ready").status_code == 200
    assert eventually(lambda: not server.server.server_state.tasks)


@pytest.fixture
def small(launch: Callable[..., LiveServer]) -> tuple[LiveServer, FakeEngine]:
    """A server with one slot and one place in the queue; speech holds before its second chunk."""
    engine = FakeEngine(EngineConfig(max_concurrency=1, max_queue=1))
    engine.plan.hold_at = 1
    return launch(engine), engine


def test_overload_is_503_and_says_when(small: tuple[LiveServer, FakeEngine]) -> None:
    server, engine = small
    with raw_request(server) as first, raw_request(server):
        assert first.recv(10)
        assert eventually(lambda: (engine.running, engine.waiting) == (1, 1))
        answer = httpx.post(server.url + URL, json=PCM)
        error = error_of(answer)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "2"
        assert (error["type"], error["code"]) == ("server_error", "overloaded")
        assert httpx.get(server.url + "/health/ready").json() == {
            "status": "ready",
            "running": 1,
            "waiting": 1,
            "model": "lyre-demo",
            "device": "cpu",
            "dtype": "float32",
            "kernel": "fake",
            "slots": 1,
        }
    assert eventually(lambda: engine.running == engine.waiting == 0)


def test_a_queued_client_that_leaves_gives_up_its_place(small: tuple[LiveServer, FakeEngine]) -> None:
    server, engine = small
    with raw_request(server) as first:
        assert first.recv(10)
        with raw_request(server):
            assert eventually(lambda: engine.waiting == 1)
        assert eventually(lambda: engine.waiting == 0)
        assert engine.running == 1


def test_the_queue_moves_up(small: tuple[LiveServer, FakeEngine]) -> None:
    server, engine = small
    with raw_request(server) as first:
        assert first.recv(10)
        with raw_request(server) as second:
            assert eventually(lambda: engine.waiting == 1)
            engine.streams[0].plan.hold.set()
            assert second.recv(10)
            engine.streams[1].plan.hold.set()
            assert eventually(lambda: engine.streams[1].finish_reason == "stop")


def request_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == "lyre.requests"]


def test_one_log_line_a_request_without_its_text(
    client: httpx.Client, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    request_id = client.post(URL, json=BODY | {"input": "a secret text"}).headers["x-request-id"]
    assert eventually(lambda: len(request_lines(caplog)) == 1)
    (line,) = request_lines(caplog)
    assert (line["id"], line["status"], line["outcome"]) == (request_id, 200, "ok")
    assert (line["voice"], line["format"]) == ("tara", "mp3")
    assert line["audio_s"] == pytest.approx(len(SPEECH) * CHUNK / 24_000, abs=0.001)
    assert line["ttfa_ms"] >= 0
    assert line["rtf"] > 0
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("plan", "body", "status", "outcome"),
    [
        ({"fail_at": 2}, PCM, 200, "error"),
        ({"fail_at": 0}, PCM, 500, "error"),
        ({}, PCM | {"voice": "x"}, 400, "invalid"),
    ],
)
def test_the_log_line_tells_the_outcome(
    client: httpx.Client,
    engine: FakeEngine,
    caplog: pytest.LogCaptureFixture,
    plan: dict[str, Any],
    body: dict[str, Any],
    status: int,
    outcome: str,
) -> None:
    caplog.set_level(logging.INFO)
    vars(engine.plan).update(plan)
    try:
        client.post(URL, json=body)
    except httpx.RemoteProtocolError:
        assert status == 200
    assert eventually(lambda: len(request_lines(caplog)) == 1)
    assert [(line["status"], line["outcome"]) for line in request_lines(caplog)] == [(status, outcome)]


def test_a_disconnect_is_logged_as_one(
    server: LiveServer, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine.plan.hold_at = 2
    with raw_request(server) as connection:
        assert connection.recv(10)
    assert eventually(lambda: len(request_lines(caplog)) == 1)
    assert request_lines(caplog)[0]["outcome"] == "client_disconnect"
