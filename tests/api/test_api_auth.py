"""API keys: who may speak, and what stays open."""

import json
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from api.auth import KeyRing
from engine import ConfigError
from tests.api.fake_engine import FakeEngine
from tests.api.live_server import BODY, URL, LiveServer, error_of

KEY = "sk-lyre-0123456789"


@pytest.fixture(scope="module")
def locked() -> Iterator[LiveServer]:
    """A server that wants a key."""
    server = LiveServer(FakeEngine(), api_keys=(KEY, "other"))
    server.start()
    server.wait_ready()
    yield server
    server.close()


def ask(server: LiveServer, authorization: str | None, content: bytes | None = None) -> httpx.Response:
    # The standard library's client: httpx refuses to send the odd headers that others do send.
    connection = HTTPConnection("127.0.0.1", server.port)
    headers = {} if authorization is None else {"authorization": authorization}
    connection.request("POST", URL, json.dumps(BODY) if content is None else content, headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return httpx.Response(answer.status, headers=answer.getheaders(), content=body)


@pytest.mark.parametrize("authorization", [f"Bearer {KEY}", f"bearer  {KEY} ", "Bearer other"])
def test_a_good_key(locked: LiveServer, authorization: str) -> None:
    assert ask(locked, authorization).status_code == 200


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", KEY, f"Basic {KEY}"])
def test_no_key(locked: LiveServer, authorization: str | None) -> None:
    answer = ask(locked, authorization)
    error = error_of(answer)
    assert answer.status_code == 401
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["x", KEY[:-1], KEY + "0", KEY.upper(), "ключ-ключ-ключ-ключ"])
def test_a_wrong_key_is_masked(locked: LiveServer, key: str) -> None:
    answer = httpx.post(locked.url + URL, json=BODY, headers=[(b"authorization", f"Bearer {key}".encode())])
    error = error_of(answer)
    assert answer.status_code == 401
    assert error["code"] == "invalid_api_key"
    assert key not in error["message"]
    assert "****" in error["message"]


@pytest.mark.parametrize("content", [b"", b"{", b" " * 100_000])
def test_the_key_comes_before_the_body(locked: LiveServer, content: bytes) -> None:
    assert ask(locked, None, content).status_code == 401


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/tts-1", "/v1/audio/voices", "/v1/audio/models", "/health", "/health/live"]
)
def test_lists_and_health_stay_open(locked: LiveServer, path: str) -> None:
    assert httpx.get(locked.url + path).status_code == 200


def test_keys_off_ignores_whatever_is_sent(server: LiveServer) -> None:
    for authorization in (None, "Bearer ", "Bearer whatever"):
        assert ask(server, authorization).status_code == 200


def test_a_key_file_rotates_without_a_restart(launch: Callable[..., LiveServer], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nold-key\n\n")
    server = launch(FakeEngine(), api_keys_file=file)
    assert ask(server, "Bearer old-key").status_code == 200
    assert ask(server, "Bearer # ours").status_code == 401
    file.write_text("new-key-1\nnew-key-2\n")
    assert ask(server, "Bearer old-key").status_code == 401
    assert ask(server, "Bearer new-key-2").status_code == 200
    file.unlink()
    assert ask(server, "Bearer new-key-2").status_code == 200
    file.write_text("")
    assert ask(server, "Bearer new-key-2").status_code == 401
    assert ask(server, None).status_code == 401


@pytest.mark.parametrize("content", ["one\r\n# two\r\n\ttwo \r\n", "\ufeffone\ntwo", "\ufeff# a\none\rtwo\r"])
def test_key_files_as_editors_write_them(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content.encode())
    ring = KeyRing((), file)
    assert [ring.accepts(key) for key in ("one", "two", "\ufeffone", "# two", "one\r")] == [True, True, *[False] * 3]


@pytest.mark.parametrize("line", ["sk-one # of mine", "ключ", "sk-\x00"])
def test_a_line_that_no_client_can_send_stops_the_start_and_is_not_told(tmp_path: Path, line: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"good\n\n{line}\n")
    with pytest.raises(ConfigError, match=r"keys: line 3 is no key: a key must be printable ASCII") as caught:
        KeyRing((), file)
    assert line not in str(caught.value)


def test_a_file_that_turns_bad_keeps_the_last_keys_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n")
    ring = KeyRing((), file)
    file.write_text("one\ntwo words\n")
    assert [ring.accepts(key) for key in ("one", "two words", "one")] == [True, False, True]
    assert [record.getMessage() for record in caplog.records] == [
        "the key file cannot be used, the last keys stay valid: line 2 is no key: "
        "a key must be printable ASCII without spaces"
    ]
    file.unlink()
    assert [ring.accepts("one"), ring.accepts("one"), len(caplog.records)] == [True, True, 2]
    file.write_text("second\n")
    assert [ring.accepts("one"), ring.accepts("second"), len(caplog.records)] == [False, True, 2]


@pytest.mark.parametrize("content", [None, b"", b"# only\n", b"\xff\xfe"])
def test_a_key_file_without_keys_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="api_keys_file"):
        KeyRing((), file)


def test_keys_and_key_file_add_up(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("two\n")
    ring = KeyRing(("one",), file)
    assert ring.required
    assert [ring.accepts(key) for key in ("one", "two", "three", "")] == [True, True, False, False]


def test_no_keys_means_open() -> None:
    assert not KeyRing(()).required


def test_a_refused_body_leaves_the_connection_usable(locked: LiveServer) -> None:
    bodies = [b"x" * 100, json.dumps(BODY).encode(), b" " * 60_000]
    connection = HTTPConnection("127.0.0.1", locked.port)
    connection.connect()
    opened = connection.sock
    for key, status in (("wrong", 401), (KEY, None), ("wrong", 401), (KEY, None)):
        for body in bodies:
            connection.request("POST", URL, body, {"authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            assert answer.status == (status or (200 if body == bodies[1] else 400))
            answer.read()
            assert connection.sock is opened
    connection.close()


def test_azures_header_is_a_key_too(locked: LiveServer) -> None:
    def status(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(locked.url + URL, json=BODY, headers=named).status_code

    assert status(api_key=KEY) == 200
    assert status(api_key="wrong") == 401
    assert status(api_key=KEY, authorization="Basic x") == 200
    assert status(api_key=KEY, authorization="Bearer wrong") == 401


@pytest.mark.parametrize("path", ["/audio/speech", "/v1/audio/speech/", "/openai/deployments/x/audio/speech"])
def test_no_other_path_to_speech_is_open(locked: LiveServer, path: str) -> None:
    assert httpx.post(locked.url + path, json=BODY).status_code == 401


def test_the_lists_can_be_closed(launch: Callable[..., LiveServer]) -> None:
    server = launch(FakeEngine(), api_keys=(KEY,), open_lists=False)
    for path in ("/v1/models", "/models", "/v1/models/tts-1", "/v1/audio/voices", "/v1/audio/models", "/audio/models"):
        assert error_of(httpx.get(server.url + path))["type"] == "invalid_request_error"
        assert httpx.head(server.url + path).status_code == 401
        assert httpx.get(server.url + path, headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    for path in ("/health", "/v1", "/openapi.json"):
        assert httpx.get(server.url + path).status_code == 200
