"""GET /metrics: the names that dashboards rest on, and that each request is counted once, as what it became."""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.metrics import Metrics
from api.scrape import MOST_OPEN, _Page, metrics_port
from api.settings import Settings
from engine import Engine, EngineConfig, EngineUnavailable, QueueTimeout
from engine.config import DEMO_CHECKPOINT
from tests.api.fake_engine import CHUNK, SPEECH, FakeEngine, Plan
from tests.api.figures import Ask, ask, deltas, figures, leave, lines, outcomes, page
from tests.api.live_server import BODY, PATIENCE, PCM, URL, LiveServer, eventually, raw_request

FIRST = ["0.02", "0.035", "0.05", "0.075", "0.1", "0.125", "0.15", "0.2", "0.25", "0.3", "0.4", "0.5", "0.75"]
FIRST += ["1.0", "2.0", "5.0", "+Inf"]
KINDS = {
    "tts_ready": "gauge",
    "tts_requests_running": "gauge",
    "tts_requests_waiting": "gauge",
    "tts_slots": "gauge",
    "tts_open_answers": "gauge",
    "tts_engines": "gauge",
    "tts_requests": "counter",
    "tts_finished": "counter",
    "tts_audio_seconds": "counter",
    "tts_underruns": "counter",
    "tts_engine_steps": "counter",
    "tts_engine_tokens": "counter",
    "tts_engine_restarts": "counter",
    "tts_time_to_first_audio_seconds": "histogram",
    "tts_time_to_first_audible_seconds": "histogram",
    "tts_queue_time_seconds": "histogram",
    "tts_request_duration_seconds": "histogram",
    "tts_real_time_factor": "histogram",
    "tts_chunk_interval_seconds": "histogram",
    "tts_engine_step_seconds": "histogram",
    "tts_engine_batch_size": "histogram",
    "tts_build_info": "gauge",
}
LABELS = {
    "tts_engines": {"state"},
    "tts_requests": {"outcome"},
    "tts_finished": {"reason"},
    "tts_audio_seconds": {"voice", "format"},
    "tts_engine_restarts": {"cause"},
    "tts_build_info": {"version", "model", "device", "dtype", "kernel"},
}


@pytest.fixture
def fresh(launch: Callable[..., LiveServer]) -> tuple[LiveServer, FakeEngine]:
    """A server whose counts begin at nothing: one slot, one place in the queue."""
    engine = FakeEngine(EngineConfig(max_concurrency=1, max_queue=1))
    return launch(engine, first_chunk_timeout=5, send_timeout=0.3, requests_at_once=3), engine


def test_names_kinds_and_labels_are_the_documented_ones(client: httpx.Client) -> None:
    client.post(URL, json=PCM)
    families = {
        family.name: family for family in text_string_to_metric_families(page(str(client.base_url).rstrip("/")))
    }
    ours = {name: family.type for name, family in families.items() if name.startswith("tts_")}
    assert ours == KINDS
    assert {name for name in families if not name.startswith("tts_")} <= {
        f"process_{each}"
        for each in (
            *("virtual_memory_bytes", "resident_memory_bytes", "start_time_seconds"),
            *("cpu_seconds", "open_fds", "max_fds"),
        )
    }
    for name in ours:
        assert {label for sample in families[name].samples for label in sample.labels} - {"le"} == LABELS.get(
            name, set()
        )
    for name in ("tts_time_to_first_audio_seconds", "tts_time_to_first_audible_seconds"):
        assert [s.labels["le"] for s in families[name].samples if s.name.endswith("_bucket")] == FIRST


def test_the_page_obeys_prometheus_rules_of_style(client: httpx.Client) -> None:
    """Those that `promtool check metrics` looks for."""
    client.post(URL, json=PCM)
    text = page(str(client.base_url).rstrip("/"))
    names = re.findall(r"# TYPE (\S+) (\S+)", text)
    assert len(set(names)) == len(names) == len(re.findall("# HELP", text))
    assert all(about.strip() for about in re.findall(r"# HELP \S+(.*)", text))
    for name, kind in names:
        assert re.fullmatch("[a-z][a-z_]*", name)
        assert (kind == "counter") == name.endswith("_total")
        assert not name.endswith(("_count", "_sum", "_bucket", "_created"))
        assert not re.search("_(milliseconds|ms|minutes|kilobytes|gauge|counter|histogram)", name)
    for family in text_string_to_metric_families(text):
        buckets = [s.value for s in family.samples if s.name.endswith("_bucket")]
        assert buckets == sorted(buckets)
        if buckets:
            assert buckets[-1] == next(s.value for s in family.samples if s.name.endswith("_count"))


def test_a_request_is_counted_with_its_figures(fresh: tuple[LiveServer, FakeEngine]) -> None:
    server, _ = fresh
    httpx.post(server.url + URL, json=BODY | {"voice": "LEO", "response_format": "wav"})
    assert eventually(lambda: outcomes(server.url) == {"ok": 1})
    now = figures(server.url)
    assert now['tts_audio_seconds_total{format="wav",voice="leo"}'] == pytest.approx(len(SPEECH) * CHUNK / 24_000)
    assert now['tts_finished_total{reason="stop"}'] == 1
    assert (now["tts_engine_steps_total"], now["tts_engine_tokens_total"]) == (len(SPEECH), 7 * len(SPEECH))
    assert now["tts_chunk_interval_seconds_count"] == len(SPEECH) - 1
    for name in ("queue_time", "time_to_first_audio", "time_to_first_audible", "request_duration"):
        assert now[f"tts_{name}_seconds_count"] == 1
    assert now["tts_real_time_factor_count"] == 1


def test_gauges_tell_what_is(fresh: tuple[LiveServer, FakeEngine]) -> None:
    server, engine = fresh
    engine.plan.hold_at = 1

    def gauges() -> list[float]:
        now = figures(server.url)
        return [now[f"tts_{name}"] for name in ("ready", "slots", "requests_running", "requests_waiting")] + [
            now["tts_open_answers"],
            now['tts_engines{state="ready"}'],
        ]

    assert gauges() == [1, 1, 0, 0, 0, 1]
    with raw_request(server) as first, raw_request(server):
        assert first.recv(10)
        assert eventually(lambda: gauges() == [1, 1, 1, 1, 2, 1])
    assert eventually(lambda: gauges() == [1, 1, 0, 0, 0, 1])
    engine.ready = False
    assert gauges() == [0, 0, 0, 0, 0, 0]


ENDS: list[tuple[dict[str, Any], Ask, int, str]] = [
    ({}, ask(PCM), 200, "ok"),
    ({}, ask(PCM | {"stream_format": "sse"}), 200, "ok"),
    ({"fail_at": 2}, ask(PCM), 200, "error"),
    ({"fail_at": 2}, ask(PCM | {"stream_format": "sse"}), 200, "error"),
    ({"fail_at": 0}, ask(PCM), 500, "error"),
    # Lost with its engine process: taken, and not refused.
    ({"fail_at": 0, "error": EngineUnavailable("gone", retry_after=1)}, ask(PCM), 503, "error"),
    ({"fail_at": 0, "error": QueueTimeout(5.0, retry_after=1)}, ask(PCM), 503, "timeout"),
    ({"error": ValueError("not an engine's error"), "fail_at": 2}, ask(PCM), 200, "error"),
    ({"error": ValueError("not an engine's error"), "fail_at": 0}, ask(PCM), 500, "error"),
    ({}, ask(PCM | {"voice": "nobody"}), 400, "invalid"),
    ({}, ask(PCM | {"input": ""}), 400, "invalid"),
    ({}, ask(PCM | {"model": "other"}), 404, "invalid"),
    ({}, ask(PCM | {"input": "x" * 200_000}), 413, "invalid"),
    ({"hold_at": 2}, leave(PCM, 10), 200, "client_disconnect"),
    ({"hold_at": 0}, leave(PCM, 0), 499, "client_disconnect"),
    ({"chunks": 0}, ask(PCM), 500, "error"),
]


@pytest.mark.parametrize(("plan", "send", "status", "outcome"), ENDS)
def test_every_end_is_counted_and_logged_once(
    server: LiveServer,
    engine: FakeEngine,
    caplog: pytest.LogCaptureFixture,
    plan: dict[str, Any],
    send: Ask,
    status: int,
    outcome: str,
) -> None:
    caplog.set_level("INFO")
    before = outcomes(server.url)
    vars(engine.plan).update(plan)
    send(server)
    assert eventually(lambda: len(lines(caplog)) == 1)
    assert eventually(lambda: dict(deltas_of(before, outcomes(server.url))) == {outcome: 1})
    # A later one would be a second end of the same request.
    engine.plan = Plan()
    httpx.post(server.url + URL, json=PCM)
    assert eventually(lambda: len(lines(caplog)) == 2)
    assert [(line["status"], line["outcome"]) for line in lines(caplog)] == [(status, outcome), (200, "ok")]


def deltas_of(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}


def test_refusals_and_deadlines_are_what_they_are(
    fresh: tuple[LiveServer, FakeEngine], caplog: pytest.LogCaptureFixture
) -> None:
    server, engine = fresh
    caplog.set_level("INFO")
    engine.plan.hold_at = 1
    with ExitStack() as clients:
        clients.enter_context(raw_request(server)).recv(10)
        clients.enter_context(raw_request(server))
        assert eventually(lambda: engine.waiting == 1)
        assert httpx.post(server.url + URL, json=PCM).status_code == 503
        assert outcomes(server.url) == {"rejected": 1}
    assert eventually(lambda: outcomes(server.url) == {"rejected": 1, "client_disconnect": 2})
    assert sorted(line["status"] for line in lines(caplog)) == [200, 499, 503]


@pytest.mark.parametrize(
    ("settings", "plan", "status", "outcome"),
    [
        ({"api_keys": ("k",)}, {}, 401, "unauthorized"),
        ({"first_chunk_timeout": 0.05}, {"hold_at": 0}, 503, "timeout"),
        ({"requests_per_minute": 1}, {}, 429, "rejected"),
    ],
)
def test_what_the_settings_forbid(
    launch: Callable[..., LiveServer], settings: dict[str, Any], plan: dict[str, Any], status: int, outcome: str
) -> None:
    engine = FakeEngine()
    vars(engine.plan).update(plan)
    server = launch(engine, **settings)
    last = [httpx.post(server.url + URL, json=PCM).status_code for _ in range(2)][-1]
    assert last == status
    assert eventually(lambda: sum(outcomes(server.url).values()) == 2)
    assert outcomes(server.url)[outcome] == (1 if outcome == "rejected" else 2)


def test_an_engine_that_takes_nothing_rejects(server: LiveServer, engine: FakeEngine) -> None:
    before = outcomes(server.url)
    engine.ready = False
    assert httpx.post(server.url + URL, json=PCM).status_code == 503
    engine.ready = True
    assert eventually(lambda: deltas_of(before, outcomes(server.url)) == {"rejected": 1})


def test_a_reader_that_stalls(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    engine.plan.endless, engine.plan.delay = True, 0.0001
    server = launch(engine, send_timeout=0.2)
    with raw_request(server, SO_RCVBUF=4096) as connection:
        assert connection.recv(10)
        assert eventually(lambda: outcomes(server.url) == {"stalled": 1})


def test_a_shutdown_in_the_middle_is_logged_as_one(
    launch: Callable[..., LiveServer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    engine = FakeEngine()
    engine.plan.hold_at = 1
    server = launch(engine)
    server.server.config.timeout_graceful_shutdown = 1
    head = f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{"
    with socket.create_connection(("127.0.0.1", server.port)) as uploading, raw_request(server) as heard:
        uploading.sendall(head.encode())
        assert heard.recv(10)
        assert eventually(lambda: len(server.server.server_state.tasks) == 2)
        server.close()
    assert eventually(lambda: len(lines(caplog)) == 2)
    assert {line["outcome"] for line in lines(caplog)} == {"shutdown"}
    # The page is gone with the server; what it would say is not.
    registry = server.server.config.app.state.metrics.registry  # type: ignore[union-attr]
    assert registry.get_sample_value("tts_requests_total", {"outcome": "shutdown"}) == 2


def test_only_the_speech_route_is_counted(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    url = str(client.base_url).rstrip("/")
    before = figures(url)
    assert [client.post("/v1/nothing").status_code, client.get(URL).status_code] == [404, 405]
    assert client.get("/v1/models/none").status_code == 404
    assert list(deltas(before, figures(url))) == []
    assert lines(caplog) == []


def test_labels_have_bounds(client: httpx.Client) -> None:
    client.post(URL, json=PCM)
    url = str(client.base_url).rstrip("/")
    known = set(figures(url))
    for name in ("voice\nx", "tara{}", "é", "x" * 300):
        client.post(URL, json=PCM | {"voice": name})
        client.post(URL, json=PCM | {"response_format": name, "model": name})
        client.post(f"/openai/deployments/{'x' * len(name)}/audio/speech", json={"input": name, "voice": name})
    assert set(figures(url)) == known


def test_two_servers_of_one_process_count_for_themselves(launch: Callable[..., LiveServer]) -> None:
    one, other = launch(FakeEngine()), launch(FakeEngine())
    httpx.post(one.url + URL, json=PCM)
    assert eventually(lambda: outcomes(one.url) == {"ok": 1})
    assert outcomes(other.url) == {}


@pytest.mark.parametrize("settings", [{"metrics": False}, {"metrics_port": 0}])
def test_off_or_elsewhere_is_404_here(launch: Callable[..., LiveServer], settings: dict[str, Any]) -> None:
    assert httpx.get(launch(FakeEngine(), **settings).url + "/metrics").status_code == 404


# ---- a port of its own


@pytest.fixture
def scraped(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """The address of a metrics port that was opened while DNS is dead."""

    def dead(name: str = "") -> str:
        raise AssertionError("nobody needs the host's name")

    monkeypatch.setattr(socket, "getfqdn", dead)
    options: dict[str, Any] = {"metrics_port": 0}
    with metrics_port(Metrics(cast("Engine", FakeEngine()), lambda: 0), Settings(**options)) as port:
        assert port
        yield "127.0.0.1", port


def test_the_metrics_port_has_the_page_and_nothing_else(scraped: tuple[str, int]) -> None:
    url = f"http://127.0.0.1:{scraped[1]}"
    assert "tts_slots" in page(url)
    assert httpx.get(url + "/health").status_code == 404


def test_a_full_metrics_port_cuts_who_has_been_there_longest(scraped: tuple[str, int]) -> None:
    with ExitStack() as sockets:
        idle = [sockets.enter_context(socket.create_connection(scraped)) for _ in range(MOST_OPEN + 4)]
        assert "tts_slots" in page(f"http://127.0.0.1:{scraped[1]}")
        for connection in idle[:4]:
            connection.settimeout(PATIENCE)
            assert connection.recv(1) == b""
        idle[-1].sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        idle[-1].settimeout(PATIENCE)
        assert idle[-1].recv(65536).startswith(b"HTTP/1.0 200")


def test_who_says_nothing_to_the_metrics_port_is_closed(
    scraped: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Page, "timeout", 0.1)
    with socket.create_connection(scraped, timeout=PATIENCE) as connection:
        connection.sendall(b"GET /met")
        assert connection.recv(1) == b""


# ---- the real engine


@pytest.fixture(scope="module")
def spoken() -> Iterator[LiveServer]:
    if not (DEMO_CHECKPOINT / "lm").is_dir():
        pytest.skip("the demo voice is not there")
    server = LiveServer(Engine(EngineConfig(max_concurrency=2)))
    server.start()
    server.wait_ready()
    yield server
    server.close()


def test_the_real_engine_tells_its_figures(spoken: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    httpx.post(spoken.url + URL, json=PCM | {"max_tokens": 70}, timeout=60)
    assert eventually(lambda: len(lines(caplog)) == 1)
    (line,) = lines(caplog)
    assert (line["outcome"], line["chars"], line["sse"]) == ("ok", len(PCM["input"]), False)
    assert line["finish_reason"] in ("stop", "length")
    assert 0 <= line["queue_ms"] < line["ttfa_ms"] <= line["duration_ms"]
    assert line["ttfa_ms"] <= line["audible_ms"] <= line["ttfa_ms"] + 1000 * line["audio_s"]
    now = figures(spoken.url)
    frames = line["audio_s"] / (CHUNK / 24_000)
    assert now["tts_engine_steps_total"] >= frames - 3
    assert now["tts_engine_tokens_total"] == 7 * now["tts_engine_batch_size_sum"]
    assert now["tts_engine_step_seconds_count"] == now["tts_engine_steps_total"]
    assert now["tts_engine_step_seconds_sum"] > 0
    assert (now["tts_slots"], now['tts_engines{state="ready"}']) == (2, 1)


def test_a_process_that_dies_in_the_middle_is_an_error_and_a_restart(
    spoken: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert isinstance(spoken.engine, Engine)
    (replica,) = spoken.engine._replicas
    before = figures(spoken.url)
    with raw_request(spoken, PCM | {"input": "A text that goes on and on. " * 20}) as connection:
        assert connection.recv(10).startswith(b"HTTP/1.1 2")
        assert replica._process is not None
        os.kill(replica._process.pid, signal.SIGKILL)
        assert eventually(lambda: len(lines(caplog)) == 1)
    grown = dict(deltas(before, figures(spoken.url)))
    assert grown['tts_requests_total{outcome="error"}'] == 1
    assert eventually(lambda: figures(spoken.url)['tts_engine_restarts_total{cause="death"}'] == 1)
    assert not [name for name in grown if name.startswith("tts_finished_total")]
    assert lines(caplog)[0]["finish_reason"] is None
