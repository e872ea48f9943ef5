"""Bytes that no client library would send: broken requests, mangled bodies, paths and headers of any characters.

Not part of the test suite: `make fuzz`. Whatever comes, the answer is no 5xx, has its id, and errors have the envelope.
"""

import json
import socket

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api.live_server import LiveServer, error_of
from tests.fuzz.conftest import KEY

BODY = {"model": "tts-1", "voice": "tara", "input": "Hi.", "response_format": "pcm", "speed": 1.0, "max_tokens": 7}

METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"TRACE", b"get", b"X"])
PATHS = st.sampled_from([b"/v1/audio/speech", b"/v1/models/", b"/health", b"/openapi.json", b"/v1/audio/voices", b"/"])
ESCAPED = st.binary(max_size=8).map(lambda raw: b"".join(b"%%%02x" % byte for byte in raw))
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


def answers(server: LiveServer, data: bytes, whole: bool) -> list[httpx.Response]:
    """The first answer, or none to something that is not a `whole` request: the server waits for the rest of it."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(20)
        connection.sendall(data)
        if not whole:
            connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    if not received:
        return []
    lines, _, content = received.partition(b"\r\n\r\n")
    status, *headers = lines.decode("latin-1").split("\r\n")
    pairs = [(name, value) for name, _, value in (line.partition(": ") for line in headers)]
    return [httpx.Response(int(status.split()[1]), headers=pairs, content=content)]


def check(server: LiveServer, data: bytes, head: bool = False, whole: bool = True) -> list[int]:
    """The statuses, after what holds for every answer."""
    got = answers(server, data, whole)
    for answer in got:
        assert answer.status_code < 500, (data, answer.content)
        assert answer.headers["x-request-id"]
        if answer.status_code >= 400 and not head:
            error_of(answer)
    assert server.engine.ready
    return [answer.status_code for answer in got]


def request(method: bytes, target: bytes, body: bytes = b"", headers: bytes = b"") -> bytes:
    """One HTTP/1.1 request with a good key, the last on its connection."""
    key = b"authorization: Bearer " + KEY.encode()
    head = method + b" " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + key + b"\r\n" + headers
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


@settings(max_examples=600)
@given(data=st.binary(min_size=1, max_size=200), start=st.sampled_from([b"", b"POST /v1/audio/speech HTTP/1.1\r\n"]))
def test_noise(fuzzed: LiveServer, data: bytes, start: bytes) -> None:
    check(fuzzed, start + data + b"\r\n\r\n", head=data.startswith(b"HEAD"), whole=False)


@settings(max_examples=600)
@given(method=METHODS, path=PATHS, more=st.one_of(ESCAPED, st.binary(max_size=12)), query=ESCAPED)
def test_targets(fuzzed: LiveServer, method: bytes, path: bytes, more: bytes, query: bytes) -> None:
    check(fuzzed, request(method, path + more + b"?" + query), head=method == b"HEAD")


@settings(max_examples=400)
@given(name=st.sampled_from([b"authorization", b"api-key", b"x-request-id", b"origin", b"content-type", b"accept",
                             b"expect", b"transfer-encoding", b"upgrade", b"access-control-request-headers"]),
       value=st.binary(max_size=40), method=METHODS)  # fmt: skip
def test_headers(fuzzed: LiveServer, name: bytes, value: bytes, method: bytes) -> None:
    check(fuzzed, request(method, b"/v1/audio/speech", b"{}", name + b": " + value + b"\r\n"), head=method == b"HEAD")


@settings(max_examples=600)
@given(at=st.integers(0, 200), cut=st.integers(0, 8), put=st.binary(max_size=8))
def test_mangled_json(fuzzed: LiveServer, at: int, cut: int, put: bytes) -> None:
    body = json.dumps(BODY).encode()
    (status,) = check(fuzzed, request(b"POST", b"/v1/audio/speech", body[:at] + put + body[at + cut :]))
    assert status in (200, 400, 404)


@settings(max_examples=300)
@given(text=TEXT)
def test_any_text_is_spoken_or_refused(fuzzed: LiveServer, text: str) -> None:
    body = json.dumps(BODY | {"input": text}).encode()
    (status,) = check(fuzzed, request(b"POST", b"/v1/audio/speech", body))
    assert status == (200 if text.strip() else 400)
