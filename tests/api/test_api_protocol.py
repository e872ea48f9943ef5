"""What arrives over the bare socket: odd requests, and noise that is none. Every answer is in the envelope."""

import json
import socket
from collections.abc import Callable

import h11
import httpx
import pytest

from api.connection import Connection
from tests.api.fake_engine import FakeEngine
from tests.api.live_server import BODY, PATIENCE, URL, LiveServer, error_of


def ask(server: LiveServer, head: bytes, body: bytes = b"") -> httpx.Response:
    """The answer to exactly these bytes."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    lines, _, content = answer.partition(b"\r\n\r\n")
    status, *headers = lines.decode().split("\r\n")
    pairs = [(name, value) for name, _, value in (line.partition(": ") for line in headers)]
    return httpx.Response(int(status.split()[1]), headers=pairs, content=content)


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /v1/models/\0 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/models/\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 17_000,
    ],
)
def test_what_is_no_http_is_refused_in_the_envelope(server: LiveServer, head: bytes) -> None:
    answer = ask(server, head)
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["openai-processing-ms"] == "0"


@pytest.mark.parametrize("request_line", ["POST / HTTP/1.1", "POST / HTTP/1.0", "HEAD / HTTP/1.1"])
@pytest.mark.parametrize("headers", [[], [("content-length", "5")]])
def test_the_short_way_of_pieces_gives_the_bytes_of_h11(request_line: str, headers: list[tuple[str, str]]) -> None:
    pieces = [] if request_line.startswith("HEAD") else [b"he", b"", b"llo"]
    sent = []
    for connection in (Connection(), h11.Connection(h11.SERVER)):
        for _ in range(2):
            connection.receive_data(f"{request_line}\r\nhost: x\r\nconnection: keep-alive\r\n\r\n".encode())
            while type(connection.next_event()) is not h11.EndOfMessage:
                pass
            events = [h11.Response(status_code=200, headers=headers), *map(h11.Data, pieces), h11.EndOfMessage()]
            sent.append([connection.send(event) for event in events])
            if connection.our_state is not h11.DONE:
                break
            connection.start_next_cycle()
    assert sent[: len(sent) // 2] == sent[len(sent) // 2 :]


def test_pieces_outside_of_an_answer_are_still_refused() -> None:
    connection = Connection()
    connection.receive_data(b"POST / HTTP/1.1\r\nhost: x\r\n\r\n")
    for event in (h11.Response(status_code=200, headers=[]), h11.Data(data=b"x"), h11.EndOfMessage()):
        connection.send(event)
    with pytest.raises(h11.LocalProtocolError):
        connection.send(h11.Data(data=b"x"))


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "FOO", "get", "TRACE", "CONNECT", "OPTIONS", "PRI"])
@pytest.mark.parametrize(
    "path", ["*", "/nowhere", "/%00", "/%ff%fe", "/v1/models/%zz", "/v1/../../etc", "/" + "a" * 9000]
)
def test_odd_requests_are_answered_in_the_envelope(server: LiveServer, method: str, path: str) -> None:
    answer = ask(server, f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-content-type-options"] == "nosniff"
    if answer.status_code != 204:
        assert answer.status_code in (404, 405)
        assert answer.headers["content-type"] == "application/json"
    if answer.status_code == 405:
        assert "GET" in answer.headers["allow"]
    if method not in ("HEAD", "OPTIONS"):
        assert len(error_of(answer)["message"]) < 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\xef\xbb\xbf" + json.dumps(BODY).encode(), 200),
        (b'{"model": "whisper-1", "model": "tts-1", "input": "x", "voice": "tara"}', 200),
        (b'{"model": "tts-1", "input": "x", "voice": "tara", "seed": ' + b"9" * 6000 + b"}", 400),
        (b'{"model": "tts-1", "input": "x", "voice": "tara", "other": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400),
        (json.dumps(BODY).encode("utf-16"), 400),
        (b'{"model": "tts-1", "input": "x \xff", "voice": "tara"}', 400),
        (b'{"model": "tts-1", "input": "x \\udc00", "voice": "tara"}', 400),
        (b"model=tts-1&input=x&voice=tara", 400),
    ],
)
@pytest.mark.parametrize(
    "content_type", [b"", b"content-type: application/x-www-form-urlencoded\r\n", b"content-type: \xff;=\r\n"]
)
def test_odd_bodies(server: LiveServer, engine: FakeEngine, content_type: bytes, body: bytes, status: int) -> None:
    head = b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + content_type
    answer = ask(server, head + b"content-length: %d\r\n\r\n" % len(body), body)
    assert answer.status_code == status
    if status != 200:
        error_of(answer)
    assert len(engine.streams) == (status == 200)


def test_http_1_0_gets_its_speech(server: LiveServer) -> None:
    body = json.dumps(BODY).encode()
    answer = ask(server, f"POST {URL} HTTP/1.0\r\ncontent-length: {len(body)}\r\n\r\n".encode(), body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")
    assert answer.content[:2] == b"\xff\xf3"


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
def test_a_cut_answer_is_reset_in_http_1_0_where_an_end_would_look_whole(
    server: LiveServer, engine: FakeEngine, stream_format: str
) -> None:
    engine.plan.fail_at = engine.plan.hold_at = 3
    body = json.dumps(BODY | {"response_format": "pcm", "stream_format": stream_format}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"POST {URL} HTTP/1.0\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        assert connection.recv(20).startswith(b"HTTP/1.1 200")
        engine.streams[-1].plan.hold.set()
        with pytest.raises(ConnectionResetError):
            _ = b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    ("before", "start"),
    [
        (b"", b"G"),
        (b"", b"GET / HTTP/1.1\r\nhost: x\r\na: b\r\n"),
        (b"GET /v1 HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTT"),
    ],
)
def test_a_head_that_never_ends_is_not_waited_for(
    launch: Callable[..., LiveServer], before: bytes, start: bytes
) -> None:
    server = launch(FakeEngine(), header_timeout=0.1)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(PATIENCE)
        if before:
            connection.sendall(before)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(start)
        assert connection.recv(65536) == b""


def test_an_answer_may_take_longer_than_a_head(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    server = launch(engine, header_timeout=0.05)
    engine.plan.delay = 0.02
    assert httpx.post(server.url + URL, json=BODY).status_code == 200


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
def test_an_offered_upgrade_is_passed_over_in_silence(
    server: LiveServer, caplog: pytest.LogCaptureFixture, upgrade: str
) -> None:
    head = f"GET /v1 HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: {upgrade}\r\n\r\n"
    assert ask(server, head.encode()).status_code == 200
    assert caplog.text == ""


def test_noise_behind_a_request_in_work_cuts_the_connection(server: LiveServer, engine: FakeEngine) -> None:
    engine.plan.hold_at = 1
    body = json.dumps(BODY | {"response_format": "pcm"}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        assert connection.recv(10)
        connection.sendall(b"\0\0\0\r\n\r\n" * 10)
        engine.streams[-1].plan.hold.set()
        rest = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"Invalid HTTP" not in rest.partition(b"\r\n0\r\n\r\n")[0]
