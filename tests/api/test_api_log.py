"""The lines on standard error: one JSON object a speech request, nothing forged, nobody's text."""

import json
import logging
import re
import signal
import socket
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest

from api.log import JsonLines, PlainLines
from engine import Engine, EngineConfig
from engine.config import DEMO_CHECKPOINT
from tests.api.fake_engine import CHUNK, SPEECH, FakeEngine
from tests.api.figures import lines
from tests.api.live_server import BODY, PCM, URL, LiveServer, error_of, eventually
from tests.api.lyre_process import Launcher

FIELDS = ["time", "id", "status", "outcome", "finish_reason", "voice", "format", "sse", "chars"]
FIELDS += ["queue_ms", "ttfa_ms", "audible_ms", "audio_s", "rtf", "underruns", "duration_ms"]
HOSTILE = [
    'x\n{"id":"forged"}',
    "x\r\n12:00:00 INFO forged",
    "\x1b[2J\x1b[31mforged",
    "x\x00\x07\x9b31m",
    "\u2028forged\u202e\x85",
    "\ud800",
    '"}forged{"',
]


def line_of(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    assert eventually(lambda: len(lines(caplog)) == 1)
    return lines(caplog)[0]


def test_a_request_that_went_well(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    answer = client.post(URL, json=BODY | {"input": "Ünï 🙂", "stream_format": "sse"})
    line = line_of(caplog)
    assert list(line) == FIELDS
    assert line["id"] == answer.headers["x-request-id"]
    assert (line["status"], line["outcome"], line["finish_reason"]) == (200, "ok", "stop")
    assert (line["voice"], line["format"], line["sse"], line["chars"]) == ("tara", "mp3", True, 5)
    assert line["audio_s"] == pytest.approx(len(SPEECH) * CHUNK / 24_000, abs=0.001)
    assert 0 <= line["queue_ms"] <= line["ttfa_ms"] <= line["audible_ms"] <= line["duration_ms"] + 100
    assert line["rtf"] >= 0
    assert datetime.fromisoformat(line["time"]).utcoffset() is not None


def test_what_is_not_known_is_null(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert client.post(URL, content=b"{").status_code == 400
    line = line_of(caplog)
    assert list(line) == FIELDS
    assert (line["status"], line["outcome"], line["audio_s"], line["underruns"]) == (400, "invalid", 0, 0)
    assert line["duration_ms"] > 0
    unknown = set(FIELDS) - {"time", "id", "status", "outcome", "audio_s", "underruns", "duration_ms"}
    assert [line[name] for name in unknown] == [None] * len(unknown)


def test_the_answer_tells_its_timing(client: httpx.Client) -> None:
    answer = client.post(URL, json=PCM)
    timing = re.fullmatch(
        r"queue;dur=(\d+\.\d), first_audio;dur=(\d+\.\d), total;dur=(\d+\.\d)", answer.headers["server-timing"]
    )
    assert timing
    assert float(timing[1]) + float(timing[2]) <= float(timing[3]) + 0.2
    assert "server-timing" in answer.headers["access-control-expose-headers"].split(", ")
    assert "server-timing" not in client.post(URL, json=PCM | {"voice": "nobody"}).headers


def test_a_bug_in_the_middle_is_logged_without_its_message(
    client: httpx.Client, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    engine.plan.fail_at, engine.plan.error = 2, ValueError("a secret text")  # type: ignore[assignment]
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(URL, json=PCM)
    assert line_of(caplog)["outcome"] == "error"
    assert eventually(lambda: "broke off: ValueError" in caplog.text)
    formatted = "".join(JsonLines().format(record) for record in caplog.records)
    assert "secret" not in formatted


def rendered(formatter: logging.Formatter, message: str, *arguments: object, broken: bool = False) -> str:
    try:
        raise ValueError("one\ntwo\x1b[0m")
    except ValueError:
        error = sys.exc_info() if broken else None
    return formatter.format(logging.LogRecord("lyre", logging.ERROR, "", 0, message, arguments, error))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_is_a_line(text: str) -> None:
    line = rendered(JsonLines(), "before %s after", text)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == f"before {text} after"
    first, *more = rendered(PlainLines(), "before %s after", text).split("\n")
    assert first.isprintable()
    assert all(line.startswith("    ") and line.isprintable() for line in more)
    assert not {"\u2028", "\u202e", "\x85", "\x1b", "\r"} & set(first)


def test_a_traceback_is_part_of_its_line() -> None:
    line = json.loads(rendered(JsonLines(), "it broke", broken=True))
    assert (line["level"], line["logger"], line["message"]) == ("error", "lyre", "it broke")
    assert "ValueError: one\ntwo" in line["error"]
    plain = rendered(PlainLines(), "it broke", broken=True)
    assert "Traceback" in plain
    assert "\x1b" not in plain


def send_hostile(url: str) -> None:
    """Everything that a client can choose, through a socket, as no well-behaved library would send it."""
    host, port = url.removeprefix("http://").split(":")
    for text in HOSTILE:
        raw = text.encode("utf-8", "surrogatepass")
        body = json.dumps(PCM | {"voice": text, "input": f"secret {text}", "model": text}).encode()
        for head in (
            b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\nx-request-id: " + raw + b"\r\nauthorization: Bearer " + raw,
            b"POST /v1/" + raw + b" HTTP/1.1\r\nhost: x",
            b"GET /%0A%1B[31mforged HTTP/1.1\r\nhost: x\r\nuser-agent: " + raw + b"\r\ntraceparent: " + raw,
            b"POST /openai/deployments/" + b"%0aforged" + b"/audio/speech HTTP/1.1\r\nhost: x\r\napi-key: " + raw,
            raw,
        ):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(head + b"\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                try:
                    while connection.recv(65_536):
                        pass
                except ConnectionError:
                    continue


def test_with_json_every_line_is_an_object(lyre: Launcher) -> None:
    server = lyre("serve", "--port", "0", LYRE_LOG_FORMAT="json", LYRE_API_KEYS="secret-key")
    assert eventually(lambda: "try: curl" in server.stderr), server.stderr
    url = re.findall(r"listens on (http://[^ ]+)", server.stderr)[0]
    send_hostile(url)
    headers = {"authorization": "Bearer secret-key"}
    assert httpx.post(url + URL, json=PCM | {"input": "secret"}, headers=headers).status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0
    everything = server.log.read_bytes().decode()
    parsed = [json.loads(line) for line in everything.splitlines()]
    assert all(isinstance(line, dict) and "time" in line for line in parsed)
    assert [line["outcome"] for line in parsed if "outcome" in line].count("ok") == 1
    for word in ("forged", "secret", "\x1b"):
        assert word not in everything
    assert {"time", "level", "logger", "message"} in [set(line) for line in parsed]


def test_plain_lines_cannot_be_forged_either(lyre: Launcher) -> None:
    server = lyre("serve", "--port", "0")
    send_hostile(server.url)
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0
    everything = server.log.read_bytes().decode()
    for word in ("forged", "secret", "\x1b"):
        assert word not in everything
    assert all(re.match(r"\d\d:\d\d:\d\d |{", line) for line in everything.splitlines())


def test_what_an_engine_process_writes_becomes_lines(
    launch: Callable[..., LiveServer], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (DEMO_CHECKPOINT / "lm").is_dir():
        pytest.skip("the demo voice is not there")
    monkeypatch.setenv("PYTHONWARNINGS", "nonsense")  # Python itself complains of it on standard error
    launch(Engine(EngineConfig(max_concurrency=1, log_format="json")))
    assert eventually(lambda: "nonsense" in caplog.text)
    (record,) = [record for record in caplog.records if "nonsense" in record.getMessage()]
    assert record.name == "engine.process"


def test_the_metrics_have_a_port_of_their_own(lyre: Launcher) -> None:
    server = lyre("serve", "--port", "0", LYRE_METRICS_PORT="0")
    assert httpx.post(server.url + URL, json=PCM).status_code == 200
    port = int(re.findall(r"metrics are at port (\d+)", server.stderr)[0])
    page = f"http://127.0.0.1:{port}/metrics"
    assert eventually(lambda: 'tts_requests_total{outcome="ok"} 1.0' in httpx.get(page).text)
    for accept in ("text/plain; version=x", "application/openmetrics-text; version=1.0.0;\x7f", "a;b=c;version="):
        assert httpx.get(page, headers={"accept": accept}).status_code == 200
    assert httpx.get(page.replace("metrics", "other")).status_code == 404
    error_of(httpx.get(server.url + "/metrics"))
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0
    assert "Traceback" not in server.stderr
    with pytest.raises(httpx.ConnectError):
        httpx.get(page)


def test_a_metrics_port_that_is_taken_stops_the_start(lyre: Launcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = lyre("serve", "--port", "0", "--metrics-port", str(port))
        assert server.end() == 1
    assert f"the metrics' port {port}: Address already in use" in server.stderr
    assert "Traceback" not in server.stderr
