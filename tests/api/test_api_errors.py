"""Every way to get no audio: the status, the envelope and its four keys, the request id."""

import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from api.speech import MAX_BODY
from engine import EngineUnavailable, GenerationFailed, InvalidRequest
from tests.api.fake_engine import FakeEngine
from tests.api.live_server import BODY, URL, LiveServer, error_of


@pytest.mark.parametrize("field", ["model", "input", "voice"])
def test_a_missing_field(client: httpx.Client, field: str) -> None:
    answer = client.post(URL, json={name: value for name, value in BODY.items() if name != field})
    error = error_of(answer)
    assert answer.status_code == 400
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        field,
        "missing_required_parameter",
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", ""),
        ("input", 3),
        ("voice", "nobody"),
        ("voice", ["tara"]),
        ("voice", {"id": "nobody"}),
        ("response_format", "ogg"),
        ("stream_format", "ws"),
        ("speed", 0.2),
        ("speed", 4.1),
        ("speed", "fast"),
        ("temperature", 3),
        ("temperature", -0.1),
        ("top_p", 0),
        ("top_k", -1),
        ("repetition_penalty", 1e308),
        ("seed", 2**64),
        ("max_tokens", 0),
        ("repetition_window", -1),
    ],
)
def test_a_wrong_value(client: httpx.Client, engine: FakeEngine, field: str, value: Any) -> None:
    answer = client.post(URL, json=BODY | {field: value})
    error = error_of(answer)
    assert answer.status_code == 400
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", field, "invalid_value")
    assert engine.streams == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["speed", "temperature"])
def test_numbers_that_are_none(client: httpx.Client, field: str, number: str) -> None:
    body = json.dumps(BODY | {field: 0.5}).replace("0.5", number)
    answer = client.post(URL, content=body)
    assert answer.status_code == 400
    error_of(answer)


def test_too_long_an_input_names_the_limit(client: httpx.Client) -> None:
    answer = client.post(URL, json=BODY | {"input": "a" * 4097})
    error = error_of(answer)
    assert answer.status_code == 400
    assert (error["param"], error["code"]) == ("input", "string_above_max_length")
    assert "4096" in error["message"]


def test_an_unknown_voice_is_told_the_voices(client: httpx.Client) -> None:
    message = error_of(client.post(URL, json=BODY | {"voice": "nobody"}))["message"]
    assert "tara, leo, alloy" in message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"hello", b'{"input": "\\ud800"}', b"\xff\xfe", b"[" * 60_000, b"[]", b"null", b'"text"', b"\0"],
)
def test_a_body_that_is_no_json_object(client: httpx.Client, body: bytes) -> None:
    answer = client.post(URL, content=body)
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"


def test_too_large_a_body(client: httpx.Client) -> None:
    answer = client.post(URL, content=b" " * (MAX_BODY + 1))
    assert answer.status_code == 413
    assert error_of(answer)["type"] == "invalid_request_error"


def test_too_large_a_body_of_unannounced_length(client: httpx.Client) -> None:
    answer = client.post(URL, content=(b" " * 1024 for _ in range(MAX_BODY // 1024 + 1)))
    assert answer.status_code == 413
    error_of(answer)


def test_the_longest_texts_in_jsons_longest_spelling_are_not_too_large(client: httpx.Client) -> None:
    text = "\U0001f600" * 4096
    body = json.dumps(BODY | {"input": text, "instructions": text}).encode()
    assert len(body) > 4096 * 2 * 12
    assert client.post(URL, content=body).status_code == 200


@pytest.mark.parametrize("model", ["whisper-1", "gpt-4o", "", "../../etc/passwd", "x" * 1000])
def test_an_unknown_model(client: httpx.Client, model: str) -> None:
    answer = client.post(URL, json=BODY | {"model": model})
    error = error_of(answer)
    assert answer.status_code == 404
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "model", "model_not_found")
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    "path", ["/v1/x", "/v2/", "/audio", "/v1/audio/speech/x", "/v1/chat/completions", "/%00", "/%ff"]
)
def test_an_unknown_url(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert error_of(answer)["message"] == f"Invalid URL (GET {unquote(path)})"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_a_wrong_method(client: httpx.Client, method: str) -> None:
    answer = client.request(method, URL)
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    error_of(answer)


def test_the_engine_refuses_the_request(client: httpx.Client, engine: FakeEngine) -> None:
    engine.plan.fail_at, engine.plan.error = 0, InvalidRequest("input", "nothing here can be spoken")
    answer = client.post(URL, json=BODY)
    error = error_of(answer)
    assert (answer.status_code, error["param"]) == (400, "input")
    assert error["message"] == "nothing here can be spoken"


def test_the_engine_breaks_before_the_first_audio(client: httpx.Client, engine: FakeEngine) -> None:
    engine.plan.fail_at, engine.plan.error = 0, GenerationFailed("the worker died")
    answer = client.post(URL, json=BODY)
    error = error_of(answer)
    assert (answer.status_code, error["type"]) == (500, "server_error")
    assert "the worker died" in error["message"]


def test_the_engine_goes_away_before_the_first_audio(client: httpx.Client, engine: FakeEngine) -> None:
    engine.plan.fail_at, engine.plan.error = 0, EngineUnavailable("restarting", retry_after=400.0)
    answer = client.post(URL, json=BODY)
    assert answer.status_code == 503
    # Clients ignore or refuse more than a minute.
    assert answer.headers["retry-after"] == "60"


def test_no_audio_at_all_is_no_success(client: httpx.Client, engine: FakeEngine) -> None:
    engine.plan.chunks = 0
    answer = client.post(URL, json=BODY | {"response_format": "wav"})
    assert answer.status_code == 500
    error_of(answer)


def test_a_bug_tells_nothing_of_the_inside(client: httpx.Client, engine: FakeEngine) -> None:
    engine.plan.fail_at, engine.plan.error = 0, ZeroDivisionError("/secret/path")  # pyright: ignore
    answer = client.post(URL, json=BODY)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    error_of(answer)


def test_a_bug_is_logged_by_its_place_and_never_by_what_it_quotes(
    client: httpx.Client, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.plan.fail_at, engine.plan.error = 0, ValueError("invalid literal: 'a secret text'")  # pyright: ignore
    answer = client.post(URL, json=BODY)
    assert answer.status_code == 500
    assert f"{answer.headers['x-request-id']}: ValueError" in caplog.text
    assert "fake_engine.py" in caplog.text
    assert "secret" not in caplog.text


def test_no_audio_in_time(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    engine.plan.hold_at = 0
    server = launch(engine, first_chunk_timeout=0.05)
    answer = httpx.post(server.url + URL, json=BODY)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert error_of(answer)["code"] == "timeout"
    assert engine.streams[-1].cancelled.is_set()


def test_a_body_that_does_not_arrive(launch: Callable[..., LiveServer]) -> None:
    server = launch(FakeEngine(), body_timeout=0.05)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
        answer = b"".join(iter(lambda: connection.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()


def test_an_encoder_that_cannot_be_made_frees_the_slot(
    client: httpx.Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise OSError("no such codec")

    engine.plan.endless = True
    monkeypatch.setattr("api.speech.encoder_for", broken)
    assert client.post(URL, json=BODY).status_code == 500
    assert engine.streams[-1].cancelled.is_set()


def test_a_connection_survives_errors(client: httpx.Client) -> None:
    addresses = set()
    bodies: list[Any] = [{}, BODY | {"voice": "x"}, BODY | {"model": "x"}, BODY]
    for body in bodies:
        with client.stream("POST", URL, json=body) as answer:
            addresses.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
            answer.read()
    assert len(addresses) == 1


@pytest.mark.parametrize("given", ["abc", "A.b_c-9", "x" * 64])
def test_the_clients_request_id_is_kept(client: httpx.Client, given: str) -> None:
    assert client.post(URL, json={}, headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a;b", "<script>", "\u00e9"])
def test_other_request_ids_are_replaced(client: httpx.Client, given: str) -> None:
    answer = client.get("/health/live", headers=[(b"x-request-id", given.encode())])
    assert answer.headers["x-request-id"].startswith("req_")


def test_request_ids_differ(client: httpx.Client) -> None:
    assert len({client.get("/nowhere").headers["x-request-id"] for _ in range(5)}) == 5


@pytest.mark.parametrize("text", ["...", "\0", "<custom_token_3>", "<|audio|>", "\U0001f44d", "\u202eabc", "a\r\nb: c"])
def test_odd_texts_reach_the_engine(client: httpx.Client, engine: FakeEngine, text: str) -> None:
    assert client.post(URL, json=BODY | {"input": text}).status_code == 200
    assert engine.streams[-1].text == text


def test_what_would_fail_again_is_not_to_be_retried(client: httpx.Client, engine: FakeEngine) -> None:
    engine.plan.fail_at = 0
    assert client.post(URL, json=BODY).headers["x-should-retry"] == "false"
    engine.plan.error = EngineUnavailable("restarting", retry_after=2)
    assert "x-should-retry" not in client.post(URL, json=BODY).headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", URL, 200),
        ("GET", "/v1/models", 200),
        ("HEAD", "/v1/models", 200),
        ("OPTIONS", "/v1/models", 204),
        ("GET", "/v1/nowhere", 404),
        ("GET", URL, 405),
        ("GET", "/health/live", 200),
        ("GET", "/v1", 200),
    ],
)
def test_every_response_says_who_and_what_it_is(client: httpx.Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path, json=BODY if method == "POST" else None)
    assert answer.status_code == status
    assert answer.headers["x-request-id"].startswith("req_")
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert answer.headers["openai-version"] == "2020-10-01"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_a_clients_own_header_of_another_name_is_not_the_id(client: httpx.Client) -> None:
    answer = client.get("/health/live", headers={"x-client-request-id": "mine"})
    assert answer.headers["x-request-id"].startswith("req_")
