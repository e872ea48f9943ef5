"""Clients that mean harm: the server stays up, answers others, and keeps nothing that they left open."""

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import h11
import httpx
import pytest

from api.connection import MAX_CHUNK_HEAD, MAX_CHUNKS, MAX_HEADERS, MAX_LINES, MAX_RECEIVED, Connection
from api.crowd import RESERVE, Crowd, raise_descriptor_limit, room
from tests.api.fake_engine import FakeEngine, Plan
from tests.api.live_server import BODY, PATIENCE, PCM, URL, LiveServer, eventually, raw_request
from tests.api.test_api_protocol import ask

POST = f"POST {URL} HTTP/1.1\r\nhost: x\r\n".encode()
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"


def connected(server: LiveServer) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.settimeout(PATIENCE)
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def alive(server: LiveServer) -> bool:
    return ask(server, b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").status_code == 200


def speaks(server: LiveServer) -> bool:
    body = json.dumps(PCM).encode()
    return ask(server, POST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body), body).status_code == 200


@pytest.fixture(autouse=True)
def server_stays_up(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does to the shared server, others are served afterwards."""
    server = request.getfixturevalue("server") if "server" in request.fixturenames else None
    yield
    if server is not None:
        vars(server.engine)["plan"] = Plan()
        assert alive(server)
        assert speaks(server)


# ---- what has two meanings


@pytest.mark.parametrize(
    "head",
    [
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        f"POST {URL} HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
        POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
        POST + b"content-length: 5, 6\r\n\r\n",
        POST + b"content-length: +5\r\n\r\n",
        POST + b"content-length: 0x5\r\n\r\n",
        POST + b"content-length: " + b"9" * 5000 + b"\r\n\r\n",
        POST + b"transfer-encoding: gzip, chunked\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n",
        POST + b"transfer-encoding : chunked\r\n\r\n",
        POST + b"transfer-encoding: \x0bchunked\r\n\r\n",
        POST + b"host: y\r\n\r\n",
        CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5\r\nhelloXX0\r\n\r\n",
        CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"f" * 21 + b"\r\n",
    ],
)
def test_a_body_of_two_lengths_is_refused_and_what_follows_is_not_read(
    server: LiveServer, engine: FakeEngine, head: bytes
) -> None:
    answer = ask(server, head, b"GET /v1 HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (answer.status_code, answer.headers["connection"]) == (400, "close")
    assert b"HTTP/1.1" not in answer.content
    assert engine.streams == []


@pytest.mark.parametrize("url", ["http://any.example", "HTTP://any.example:80/v1", "https://a/v1?b=http://c/d"])
def test_a_whole_url_is_its_path(server: LiveServer, url: str) -> None:
    answer = ask(server, f"GET {url} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    assert answer.status_code == 200
    if "/v1" in url:
        assert b'"lyre"' in answer.content


def test_a_whole_url_is_no_way_round_the_keys(launch: Callable[..., LiveServer]) -> None:
    server = launch(FakeEngine(), api_keys=("sesame",))
    body = json.dumps(BODY).encode()
    head = f"POST http://x{URL} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    assert ask(server, head.encode(), body).status_code == 401


# ---- what is too much


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health/live HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * 3000 + b"\r\n",
        b"\r\n" * 100_000,
        CHUNKED + b"5;" + b"x" * 200_000 + b"\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"0\r\n" + b"a: b\r\n" * 30_000 + b"\r\n",
        CHUNKED + b"1\r\nx\r\n" * 40_000 + b"0\r\n\r\n",
    ],
    ids=["header", "path", "lines", "empty-lines", "chunk-extension", "trailers", "chunks"],
)
def test_what_would_take_long_to_parse_is_refused(server: LiveServer, engine: FakeEngine, head: bytes) -> None:
    with connected(server) as connection:
        try:
            connection.sendall(head)
            answer = rest(connection)
        except ConnectionError:
            # Cut while it was still sent: the refusal is lost on the way.
            answer = b""
    assert not answer or answer.startswith(b"HTTP/1.1 400 ")
    assert engine.streams == []


def test_a_body_that_is_no_http_is_logged_as_invalid(server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "lyre.requests")
    with connected(server) as connection:
        connection.sendall(CHUNKED + b"5\r\nhello\r\n")
        connection.sendall(b"noise\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 400 ")

    def outcomes() -> list[str]:
        return [
            json.loads(record.getMessage())["outcome"] for record in caplog.records if record.name == "lyre.requests"
        ]

    # The line of the speech that followed the test before may come this late.
    assert eventually(lambda: "invalid" in outcomes())
    assert [outcome for outcome in outcomes() if outcome != "ok"] == ["invalid"]


def parsed(data: bytes) -> list[str]:
    """The kinds of events that a connection makes of these bytes in one read."""
    connection = Connection()
    connection.receive_data(data)
    kinds = []
    try:
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            kinds.append(type(event).__name__)
    except h11.RemoteProtocolError:
        kinds.append("refused")
    return kinds


def test_limits_are_exact() -> None:
    start = b"GET / HTTP/1.1\r\nhost: x\r\n"
    fitting = b"x: " + b"a" * (MAX_HEADERS - len(start) - len(b"x: \r\n\r\n")) + b"\r\n\r\n"
    assert parsed(start + fitting) == ["Request", "EndOfMessage"]
    assert parsed(start + b"a" + fitting) == ["refused"]
    # The request's line, the host, the empty line.
    lines = b"a: b\r\n" * (MAX_LINES - 3)
    assert parsed(start + lines + b"\r\n") == ["Request", "EndOfMessage"]
    assert parsed(start + lines + b"a: b\r\n\r\n") == ["refused"]
    chunks = b"1\r\nx\r\n" * MAX_CHUNKS
    assert parsed(CHUNKED + chunks + b"0\r\n\r\n") == ["Request", *["Data"] * MAX_CHUNKS, "EndOfMessage"]
    assert parsed(CHUNKED + chunks + b"1\r\nx\r\n0\r\n\r\n")[-1] == "refused"
    # Of what is not complete yet.
    for begun, longest in ((b"", b"5;"), (b"0\r\n", b"a: ")):
        unfinished = CHUNKED + begun + longest.ljust(MAX_CHUNK_HEAD, b"b")
        assert parsed(unfinished) == ["Request"]
        assert parsed(unfinished + b"b") == ["Request", "refused"]


def test_each_request_has_limits_of_its_own() -> None:
    connection = Connection()
    for _ in range(3):
        connection.receive_data(CHUNKED + b"1\r\nx\r\n" * MAX_CHUNKS + b"0\r\n\r\n")
        while type(connection.next_event()) is not h11.EndOfMessage:
            pass
        for event in (h11.Response(status_code=200, headers=[("content-length", "0")]), h11.EndOfMessage()):
            connection.send(event)
        connection.start_next_cycle()


@pytest.mark.parametrize("size", [128 * 1024 + 1, 1_000_000])
def test_a_large_body_is_refused_in_words_and_the_connection_lives(client: httpx.Client, size: int) -> None:
    for content in (b" " * size, iter([b" " * 65536] * (size // 65536 + 1))):
        answer = client.post(URL, content=content)
        assert answer.status_code == 413
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_refused_body_is_not_received_for_ever(server: LiveServer) -> None:
    with connected(server) as connection:
        connection.sendall(POST + b"content-length: 1000000000000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        with pytest.raises(ConnectionError):
            connection.sendall(b"x" * 4 * MAX_RECEIVED)


# ---- what never ends


def test_a_trickled_body_has_a_deadline(launch: Callable[..., LiveServer]) -> None:
    server = launch(FakeEngine(), body_timeout=0.2)
    with connected(server) as connection:
        connection.sendall(CHUNKED)
        connection.settimeout(0.01)
        answer = b""
        for _ in range(MAX_CHUNKS - 1):
            try:
                connection.sendall(b"1\r\n \r\n")
                answer += connection.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                pass
            break
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_after_a_refusal_the_rest_of_a_body_has_the_time_of_a_head(launch: Callable[..., LiveServer]) -> None:
    server = launch(FakeEngine(), header_timeout=0.2, api_keys=("sesame",))
    with connected(server) as connection:
        connection.sendall(POST + b"content-length: 100000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
        connection.sendall(b"x")
        assert rest(connection) == b""


def test_after_a_refusal_and_the_whole_body_a_connection_is_an_idle_one(launch: Callable[..., LiveServer]) -> None:
    server = launch(FakeEngine(), header_timeout=0.8, api_keys=("sesame",))
    with connected(server) as connection:
        connection.sendall(POST + b"content-length: 3\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
        connection.sendall(b"x")
        connection.sendall(b"yz")
        connection.settimeout(1.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(PATIENCE)
        connection.sendall(b"GET /v1 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent", [[], [b"GET /v1 HTTP/1.1\r\nhost: x\r\n\r\n"], [POST + b"content-length: 3\r\n\r\n", b"xyz"]]
)
def test_an_idle_connection_is_closed(launch: Callable[..., LiveServer], sent: list[bytes]) -> None:
    server = launch(FakeEngine(), header_timeout=0.2 if not sent else 60, api_keys=("sesame",))
    server.server.config.timeout_keep_alive = 0.2  # type: ignore[assignment]
    with connected(server) as connection:
        if sent:
            connection.sendall(sent[0])
            assert connection.recv(65536).startswith(b"HTTP/1.1 ")
            connection.sendall(b"".join(sent[1:]))
        assert rest(connection) == b""


def test_a_head_that_begins_behind_a_request_has_its_time(launch: Callable[..., LiveServer]) -> None:
    server = launch(FakeEngine(), header_timeout=0.2)
    server.server.config.timeout_keep_alive = 600
    with connected(server) as connection:
        connection.sendall(b"GET /v1 HTTP/1.1\r\nhost: x\r\n\r\nGET / HTT")
        assert rest(connection).startswith(b"HTTP/1.1 200 ")


def test_expect_is_answered_before_the_body_and_not_before_the_key(launch: Callable[..., LiveServer]) -> None:
    server = launch(FakeEngine(), api_keys=("sesame",))
    body = json.dumps(PCM).encode()
    expect = POST + b"content-length: %d\r\nexpect: 100-continue\r\nconnection: close\r\n" % len(body)
    with connected(server) as connection:
        connection.sendall(expect + b"authorization: Bearer sesame\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert b"HTTP/1.1 200 " in rest(connection)
    with connected(server) as connection:
        connection.sendall(expect + b"\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 401 ")


def test_a_half_closed_client_counts_as_gone(server: LiveServer, engine: FakeEngine) -> None:
    engine.plan.endless, engine.plan.delay = True, 0.005
    with raw_request(server) as connection:
        connection.settimeout(PATIENCE)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        connection.shutdown(socket.SHUT_WR)
        assert not rest(connection).endswith(b"\r\n0\r\n\r\n")
    assert eventually(lambda: engine.running == 0)


@pytest.mark.parametrize("more", [b"\r\n", b"GET /v1 HTTP/1.1\r\nhost: x\r\n\r\n" * 3, b"GET / HTT"])
def test_who_sends_more_behind_a_request_is_still_seen_to_leave(
    server: LiveServer, engine: FakeEngine, more: bytes
) -> None:
    engine.plan.hold_at = 0
    with raw_request(server) as connection:
        connection.sendall(more)
        assert eventually(lambda: engine.running == 1)
    assert eventually(lambda: engine.running == 0)
    assert engine.streams[-1].cancelled.is_set()


def test_requests_in_a_row_are_answered_in_a_row(server: LiveServer) -> None:
    asked = (
        b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n" * 300
        + b"GET /v1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    with connected(server) as connection:
        connection.sendall(asked)
        answers = rest(connection)
    assert answers.count(b"HTTP/1.1 200 ") == 301
    assert answers.rpartition(b"\r\n\r\n")[2].startswith(b'{"name"')


# ---- what is no HTTP


def test_tls_is_refused(server: LiveServer) -> None:
    with connected(server) as connection, pytest.raises((ssl.SSLError, ConnectionError)):
        ssl._create_unverified_context().wrap_socket(connection)


@pytest.mark.parametrize(
    "noise",
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 100_000, b"\xff" * 100_000, b"SSH-2.0-x\r\n\r\n", b"\r\n\r\n\r\n"],
    ids=["h2", "zeros", "ones", "ssh", "lines"],
)
def test_noise_is_refused(server: LiveServer, noise: bytes) -> None:
    with connected(server) as connection:
        try:
            connection.sendall(noise)
            assert rest(connection).startswith(b"HTTP/1.1 400 ")
        except ConnectionError:
            pass


def test_noise_fills_no_log(launch: Callable[..., LiveServer], caplog: pytest.LogCaptureFixture) -> None:
    server = launch(FakeEngine())
    caplog.clear()
    for _ in range(20):
        assert ask(server, b"noise\r\n\r\n").status_code == 400
    assert len(caplog.records) <= 1
    assert not [record for record in caplog.records if "noise" in record.getMessage()]


# ---- too many


def test_a_thousand_idle_sockets_are_room_enough(launch: Callable[..., LiveServer]) -> None:
    if (raise_descriptor_limit() or 10_000) < 2500:
        pytest.skip("this machine allows too few file descriptors")
    engine = FakeEngine()
    server = launch(engine)
    with ExitStack() as sockets:
        idle = [sockets.enter_context(connected(server)) for _ in range(1000)]
        for connection in idle[::2]:
            connection.sendall(b"GET / HT")
        assert alive(server)
        assert speaks(server)
    assert eventually(lambda: len(server.server.server_state.connections) == 0)


def test_a_full_house_closes_who_has_waited_longest(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    engine.plan.hold_at = 1
    server = launch(engine, max_connections=20)
    with ExitStack() as sockets:
        speaking = sockets.enter_context(closing(raw_request(server)))
        assert speaking.recv(10)
        idle = [sockets.enter_context(connected(server)) for _ in range(200)]
        assert all(alive(server) for _ in range(5))
        closed = [connection for connection in idle if _is_closed(connection)]
        assert set(closed) >= set(idle[:180])
        assert not set(closed) & set(idle[190:])
        # Who is being answered stays.
        engine.streams[0].plan.hold.set()
        speaking.settimeout(PATIENCE)
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += speaking.recv(65536)
    assert eventually(lambda: len(server.server.server_state.connections) == 0)


def test_a_full_house_cuts_no_answer_to_a_request_that_came_behind_another(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    engine.plan.hold_at = 1
    first = engine.plan.hold
    server = launch(engine, max_connections=2)
    body = json.dumps(PCM).encode()
    asked = POST + b"content-length: %d\r\n\r\n" % len(body) + body
    with connected(server) as speaking, ExitStack() as sockets:
        speaking.sendall(asked * 2)
        assert eventually(lambda: len(engine.streams) == 1)
        second = engine.plan.hold = threading.Event()
        first.set()
        assert eventually(lambda: len(engine.streams) == 2)
        idle = [sockets.enter_context(connected(server)) for _ in range(3)]
        assert [rest(connection) for connection in idle[:2]] == [b"", b""]
        second.set()
        data = b""
        while data.count(b"\r\n0\r\n\r\n") < 2:
            piece = speaking.recv(65536)
            assert piece
            data += piece


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
from tests.api.fake_engine import FakeEngine
from tests.api.live_server import LiveServer
server = LiveServer(FakeEngine())
server.start()
server.wait_ready()
print(server.port, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of processes are read as Linux has them")
def test_descriptors_never_run_out() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LIMITED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process, ExitStack() as sockets:
        try:
            assert process.stdout is not None
            address = ("127.0.0.1", int(process.stdout.readline()))
            # Twice as many as the process may have, some with a byte of a request.
            idle = [sockets.enter_context(socket.create_connection(address)) for _ in range(600)]
            for connection in idle[::3]:
                with suppress(ConnectionError):
                    connection.sendall(b"G")
            with socket.create_connection(address) as asking:
                asking.settimeout(PATIENCE)
                asking.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                assert rest(asking).startswith(b"HTTP/1.1 200 ")
            # 300, which it had to ask for, less those that are kept back.
            assert len([connection for connection in idle if not _is_closed(connection)]) <= 300 - RESERVE
            assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < 300
        finally:
            process.kill()


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_a_crowd_of_workers_takes_nobody_else_in(caplog: pytest.LogCaptureFixture) -> None:
    crowd, closed = Crowd(2), []
    for name in "abcd":
        crowd.wait(name, lambda name=name: closed.append(name))
        if name in "ab":
            crowd.work(name)
    assert closed == ["c", "d"]
    crowd.wait("b", lambda: closed.append("b"))
    crowd.wait("e", lambda: closed.append("e"))
    assert closed == ["c", "d", "b"]
    crowd.leave("a")
    crowd.leave("e")
    assert len(crowd) == 0
    assert len(caplog.records) == 1


def test_connections_leave_descriptors_for_the_rest() -> None:
    assert room(4096, None) == 4096
    assert room(4096, 1024) == 1024 - RESERVE
    assert room(4096, 20_000) == 4096
    assert room(4096, 64) == 1
