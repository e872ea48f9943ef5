"""What a server's metrics and log say, for tests."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.live_server import URL, LiveServer, eventually, raw_request

Ask = Callable[[LiveServer], None]


def page(url: str) -> str:
    """The text of /metrics."""
    answer = httpx.get(url + "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.text


def figures(url: str) -> dict[str, float]:
    """Every sample by its name and labels, as in tts_requests_total{outcome="ok"}."""
    return {
        sample.name + ("{" + ",".join(f'{k}="{v}"' for k, v in sample.labels.items()) + "}" if sample.labels else ""): (
            sample.value
        )
        for family in text_string_to_metric_families(page(url))
        for sample in family.samples
    }


def outcomes(url: str) -> dict[str, float]:
    """How many requests ended how; only what happened."""
    return {
        name.split('"')[1]: value
        for name, value in figures(url).items()
        if name.startswith("tts_requests_total{") and value
    }


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The requests' lines."""
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "lyre.requests"]


def ask(body: dict[str, Any], **headers: str) -> Ask:
    """Asks for speech, whatever becomes of it."""

    def send(server: LiveServer) -> None:
        with contextlib.suppress(httpx.RemoteProtocolError):
            httpx.post(server.url + URL, json=body, headers=headers)

    return send


def leave(body: dict[str, Any], after: int) -> Ask:
    """Asks for speech and leaves after so many bytes; 0: when the engine has the request."""

    def send(server: LiveServer) -> None:
        with raw_request(server, body) as connection:
            if after:
                assert connection.recv(after)
            else:
                assert eventually(lambda: server.engine.running > 0)

    return send


def deltas(before: dict[str, float], after: dict[str, float]) -> Iterator[tuple[str, float]]:
    """What has grown."""
    for name, value in after.items():
        if value != before.get(name, 0.0) and name.startswith("tts_"):
            yield name, value - before.get(name, 0.0)
