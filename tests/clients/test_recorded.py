"""Clients that cannot be installed here in minutes: the requests they send, sent again, and read the way they read."""

import io
import json
import urllib.request
import wave
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from tests.clients.lyre_process import PATIENCE, LyreProcess
from tests.clients.spoken import MEDIA_TYPES, assert_lasts, assert_speaks, decode, from_pcm

RECORDED = Path(__file__).parent / "recorded"


@dataclass(frozen=True)
class Recorded:
    """One request of one client."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any] | None = None

    def send(self, server: LyreProcess) -> HTTPResponse:
        """The answer, its body not yet read; raises HTTPError for what is not good."""
        data = None if self.body is None else json.dumps(self.body).encode()
        request = urllib.request.Request(server.url + self.path, data, self.headers, method=self.method)
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def receive(self, server: LyreProcess) -> bytes:
        """The whole answer."""
        with self.send(server) as answer:
            return answer.read()


def requests_of(name: str) -> list[Recorded]:
    """All requests of the client in a file."""
    return [Recorded(**request) for request in json.loads((RECORDED / f"{name}.json").read_text())["requests"]]


def speech_requests() -> list[Any]:
    """Every recorded request for speech, as a test's parameter."""
    return [
        pytest.param(request, id=f"{file.stem}-{number}")
        for file in sorted(RECORDED.glob("*.json"))
        for number, request in enumerate(requests_of(file.stem))
        if request.method == "POST"
    ]


@pytest.mark.parametrize("request_", speech_requests())
def test_it_is_spoken(server: LyreProcess, request_: Recorded) -> None:
    assert request_.body is not None
    response_format = request_.body.get("response_format", "mp3")
    with request_.send(server) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"] == MEDIA_TYPES[response_format]
        data = answer.read()
    sound = decode(data, response_format)
    assert_speaks(sound, request_.body["input"])
    line = server.line(answer.headers["x-request-id"])
    assert line["outcome"] == "ok"
    assert_lasts(sound, line["audio_s"] / request_.body.get("speed", 1))


def test_open_webui_lists_voices_and_models_without_a_key(guarded: LyreProcess) -> None:
    voices, names, models, *_ = (request.receive(guarded) for request in requests_of("open_webui")[:3])
    assert [(voice["id"], voice["name"]) for voice in json.loads(voices)["voices"]][:2] == [
        ("tara", "tara"),
        ("leo", "leo"),
    ]
    listed = [model["id"] for model in json.loads(names)["models"]]
    assert "tts-1" in listed
    assert [model["id"] for model in json.loads(models)["data"]] == listed


def test_n8n_tests_its_credential(server: LyreProcess) -> None:
    listed = json.loads(requests_of("n8n")[0].receive(server))
    assert listed["object"] == "list"
    assert {"tts-1", "tts-1-hd"} <= {model["id"] for model in listed["data"]}


def test_librechat_joins_answers(server: LyreProcess) -> None:
    requests = requests_of("librechat")
    parts = [request.receive(server) for request in requests]
    joined = decode(b"".join(parts))
    assert_speaks(joined, " ".join(request.body["input"] for request in requests if request.body))
    # Nothing between the parts is taken for something else than audio, and nothing is lost there.
    assert joined.seconds == pytest.approx(sum(decode(part).seconds for part in parts), abs=0.1)


def test_wyoming_openai_reads_the_header_from_the_first_bytes(server: LyreProcess) -> None:
    (request,) = requests_of("wyoming_openai")
    assert request.body is not None
    with request.send(server) as answer:
        head = answer.read(2048)
        with wave.open(io.BytesIO(head)) as header:
            assert (header.getframerate(), header.getsampwidth(), header.getnchannels()) == (24_000, 2, 1)
            first = header.readframes((len(head) - 44) // 2)
        sound = from_pcm(first + answer.read())
    assert_speaks(sound, request.body["input"])
    assert_lasts(sound, server.line(answer.headers["x-request-id"])["audio_s"])
