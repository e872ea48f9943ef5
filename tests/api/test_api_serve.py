"""`lyre serve` in a process of its own: its first lines, its signals, its exit codes."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.api.fake_engine import SPEECH
from tests.api.live_server import BODY, PATIENCE, PCM, URL, error_of, eventually
from tests.api.lyre_process import ROOT, Launcher


def test_serve_speaks_and_ends_on_sigterm(lyre: Launcher) -> None:
    server = lyre("serve", "--port", "0")
    assert httpx.post(server.url + URL, json=PCM).content == b"".join(SPEECH)
    assert "server" not in httpx.get(server.url + "/health").headers
    for noise in (b"GET / HTTP/1.1\r\nx: " + b"a" * 200_000, b"\x16\x03\x01\x02\x00\x01", b"\0" * 1000 + b"\r\n\r\n"):
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        with socket.create_connection(address) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(noise)
            assert not connection.recv(1000).startswith(b"HTTP/1.1 2")
    assert httpx.get(server.url + "/health/ready").status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0
    assert "Traceback" not in server.stderr


def test_the_banner_tells_what_runs(lyre: Launcher) -> None:
    server = lyre("serve", LYRE_PORT="0", LYRE_API_KEYS="k")
    assert server.url.startswith("http://127.0.0.1:")
    for expected in (
        "lyre-demo on cpu",
        "voices tara, leo",
        "bundled demo voice",
        "/v1/audio/speech -H 'authorization",
    ):
        assert expected in server.stderr
    assert httpx.post(server.url + URL, json=BODY).status_code == 401


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(lyre: Launcher, tmp_path: Path, sent: signal.Signals) -> None:
    gate = tmp_path / "gate"
    server = lyre("serve", "--port", "0", FAKE=json.dumps({"plan": {"hold_at": 1}, "gate": str(gate)}))
    with httpx.stream("POST", server.url + URL, json=PCM, timeout=PATIENCE) as answer:
        parts = answer.iter_raw()
        received = next(parts)
        server.process.send_signal(sent)
        assert eventually(lambda: "draining" in server.stderr)
        late, ready, live = (
            httpx.request(method, server.url + path, json=body)
            for method, path, body in (
                ("POST", URL, PCM),
                ("GET", "/health/ready", None),
                ("GET", "/health/live", None),
            )
        )
        assert (late.status_code, late.headers["retry-after"]) == (503, "2")
        assert (ready.status_code, ready.json()["status"], live.status_code) == (503, "draining", 200)
        assert [each.headers["connection"] for each in (late, ready, live)] == ["close"] * 3
        gate.touch()
        received += b"".join(parts)
    assert received == b"".join(SPEECH)
    assert server.end() == 0


def test_who_is_queued_when_the_drain_begins_is_served(lyre: Launcher, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = json.dumps({"plan": {"hold_at": 0}, "gate": str(gate)})
    server = lyre("serve", "--port", "0", "--max-concurrency", "1", FAKE=script)
    url = server.url
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(httpx.post, url + URL, json=PCM, timeout=PATIENCE) for _ in range(2)]
        assert eventually(lambda: httpx.get(url + "/health").json()["waiting"] == 1)
        server.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: "draining" in server.stderr)
        gate.touch()
        assert [answer.result(PATIENCE).content for answer in answers] == [b"".join(SPEECH)] * 2
    assert server.end() == 0


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_model_loads_ends_with_0(lyre: Launcher, sent: signal.Signals) -> None:
    server = lyre("serve", "--port", "0", "--drain-seconds", "600", FAKE='{"loads": true}')
    assert eventually(lambda: "loading" in server.stderr), server.stderr
    server.process.send_signal(sent)
    assert server.end() == 0
    assert "Traceback" not in server.stderr


def test_a_drain_ends_in_time(lyre: Launcher) -> None:
    server = lyre("serve", "--port", "0", "--drain-seconds", "0.1", FAKE='{"plan": {"hold_at": 1}}')
    with httpx.stream("POST", server.url + URL, json=PCM, timeout=PATIENCE) as answer:
        parts = answer.iter_raw()
        assert next(parts)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            next(parts)
    assert server.end() == 0


def test_who_waits_when_the_drain_ends_is_told_so(lyre: Launcher) -> None:
    server = lyre("serve", "--port", "0", "--drain-seconds", "1", FAKE='{"plan": {"hold_at": 0}}')
    url = server.url
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(httpx.post, url + URL, json=PCM, timeout=PATIENCE)
        assert eventually(lambda: httpx.get(url + "/health").json()["running"] == 1)
        server.process.send_signal(signal.SIGTERM)
        answer = waiting.result(PATIENCE)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert error_of(answer)["code"] == "unavailable"
    assert server.end() == 0


def test_a_second_signal_ends_at_once(lyre: Launcher) -> None:
    server = lyre("serve", "--port", "0", "--drain-seconds", "600", FAKE='{"plan": {"hold_at": 1}}')
    with httpx.stream("POST", server.url + URL, json=PCM, timeout=PATIENCE) as answer:
        parts = answer.iter_raw()
        assert next(parts)
        server.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: "draining" in server.stderr)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            next(parts)
        server.end()
    assert '"outcome": "shutdown"' in server.stderr


def test_a_cut_stream_leaves_one_line_and_no_traceback(lyre: Launcher) -> None:
    server = lyre("serve", "--port", "0", FAKE='{"plan": {"fail_at": 2}}')
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(server.url + URL, json=PCM)
    assert eventually(lambda: '"outcome": "error"' in server.stderr)
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0
    assert server.stderr.count("broke off") == 1
    assert "Traceback" not in server.stderr


def test_a_model_that_cannot_load_ends_with_1_and_the_reason(lyre: Launcher) -> None:
    server = lyre("serve", "--port", "0", FAKE='{"start_error": "no config.json in /models/x"}')
    assert server.end() == 1
    assert "no config.json in /models/x" in server.stderr
    assert "Traceback" not in server.stderr


def test_an_engine_that_gives_up_ends_with_1(lyre: Launcher) -> None:
    server = lyre("serve", "--port", "0", FAKE='{"gives_up": true}')
    assert server.end() == 1
    assert "died too often" in server.stderr


def test_the_server_loads_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'snac', 'triton'}"
    code = f"import sys, api.app, api.__main__; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
