"""OpenTelemetry: the spans that arrive at a collector."""

import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest

from api.settings import Settings
from api.tracing import Tracing
from engine import ConfigError
from tests.api.fake_engine import CHUNK, SPEECH, FakeEngine
from tests.api.figures import leave
from tests.api.live_server import BODY, PCM, URL, LiveServer, eventually

otlp = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """An OTLP receiver on a free port."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resource: dict[str, str] = {}
        self.everything = b""
        collector = self

        class Receive(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Receive)
        # It looks every so many seconds whether it is to end.
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()

    def take(self, body: bytes) -> None:
        self.everything += body
        for resource in otlp.ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def span(self, name: str) -> Any:
        (found,) = [span for span in self.spans if span.name == name]
        return found


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server.server_port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


@pytest.fixture
def traced(launch: Callable[..., LiveServer], collector: Collector) -> LiveServer:
    return launch(FakeEngine(), tracing=True)


def test_a_request_is_a_span_with_its_stages_inside(traced: LiveServer, collector: Collector) -> None:
    parent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer = httpx.post(traced.url + URL, json=BODY | {"input": "a secret text"}, headers=parent)
    assert eventually(lambda: len(collector.spans) == 4)
    root = collector.span(f"POST {URL}")
    assert (root.trace_id.hex(), root.parent_span_id.hex(), root.kind) == (TRACE, PARENT, root.SPAN_KIND_SERVER)
    facts = attributes(root)
    assert facts["lyre.request_id"] == answer.headers["x-request-id"]
    assert (facts["http.response.status_code"], facts["lyre.outcome"], facts["lyre.voice"]) == (200, "ok", "tara")
    assert facts["lyre.audio_seconds"] == pytest.approx(len(SPEECH) * CHUNK / 24_000)
    assert root.status.code == root.status.STATUS_CODE_UNSET
    stages = [collector.span(name) for name in ("queue", "first_audio", "stream")]
    assert all(span.parent_span_id == root.span_id and span.trace_id == root.trace_id for span in stages)
    times = [t for span in stages for t in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert times == sorted(times)
    assert root.start_time_unix_nano <= times[0]
    assert times[-1] == root.end_time_unix_nano
    assert b"secret" not in collector.everything
    assert collector.resource["service.name"] == "lyre"


def test_a_request_that_is_wrong_has_no_stages(traced: LiveServer, collector: Collector) -> None:
    httpx.post(traced.url + URL, json=PCM | {"voice": "nobody"})
    assert eventually(lambda: len(collector.spans) == 1)
    assert attributes(collector.spans[0])["lyre.outcome"] == "invalid"
    assert collector.spans[0].status.code == collector.spans[0].status.STATUS_CODE_UNSET


def test_a_failure_is_an_error(traced: LiveServer, collector: Collector) -> None:
    traced.engine.plan.fail_at = 2  # type: ignore[union-attr]
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(traced.url + URL, json=PCM)
    assert eventually(lambda: len(collector.spans) == 4)
    root = collector.span(f"POST {URL}")
    assert (root.status.code, root.status.message) == (root.status.STATUS_CODE_ERROR, "error")


def test_a_client_that_left_before_it_heard_anything(traced: LiveServer, collector: Collector) -> None:
    traced.engine.plan.hold_at = 0  # type: ignore[union-attr]
    leave(PCM, 0)(traced)
    assert eventually(lambda: len(collector.spans) == 2)
    assert {span.name for span in collector.spans} == {f"POST {URL}", "queue"}


@pytest.mark.parametrize("parent", ["00-zz-1-01", "x" * 5000, f"00-{'0' * 32}-{PARENT}-01"])
def test_a_parent_that_is_none_is_ignored(traced: LiveServer, collector: Collector, parent: str) -> None:
    assert httpx.post(traced.url + URL, json=PCM, headers={"traceparent": parent}).status_code == 200
    assert eventually(lambda: len(collector.spans) == 4)
    assert collector.span(f"POST {URL}").parent_span_id == b""


def test_what_the_caller_does_not_sample_is_not_sent(traced: LiveServer, collector: Collector) -> None:
    httpx.post(traced.url + URL, json=PCM, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    httpx.post(traced.url + URL, json=PCM)
    assert eventually(lambda: len(collector.spans) == 4)
    assert TRACE not in {span.trace_id.hex() for span in collector.spans}


def test_the_last_spans_are_sent_at_the_end(
    launch: Callable[..., LiveServer], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "voices")
    server = launch(FakeEngine(), tracing=True)
    httpx.post(server.url + URL, json=PCM)
    server.close()
    assert len(collector.spans) == 4
    assert collector.resource["service.name"] == "voices"


def test_without_the_extra_the_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"tracing: needs OpenTelemetry: pip install 'lyre\[otel\]'"):
        Tracing()


def test_another_protocol_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match="must be http/protobuf"):
        Tracing()


def test_off_by_default() -> None:
    assert not Settings().tracing
