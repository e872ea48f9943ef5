"""POST /v1/audio/speech when all goes well."""

import base64
import json

import httpx
import pytest

from api.models import ALIASES
from api.sse import MAX_DELTA
from engine import SamplingParams
from tests.api.fake_engine import SPEECH, FakeEngine
from tests.api.live_server import BODY, URL, eventually

TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


@pytest.mark.parametrize(("audio_format", "media_type"), TYPES.items())
def test_status_and_headers(client: httpx.Client, audio_format: str, media_type: str) -> None:
    answer = client.post(URL, json=BODY | {"response_format": audio_format}, headers={"accept-encoding": "gzip"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in answer.headers
    assert "content-encoding" not in answer.headers
    assert answer.headers["x-request-id"].startswith("req_")
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert len(answer.content) > 1000


def test_mp3_is_the_default(client: httpx.Client) -> None:
    answer = client.post(URL, json=BODY)
    assert answer.headers["content-type"] == "audio/mpeg"
    assert answer.content[:4] == bytes.fromhex("fff3c4c4")


def test_pcm_is_every_sample_once(client: httpx.Client) -> None:
    assert client.post(URL, json=BODY | {"response_format": "pcm"}).content == b"".join(SPEECH)


def test_wav_is_one_header_and_every_sample(client: httpx.Client) -> None:
    content = client.post(URL, json=BODY | {"response_format": "wav"}).content
    assert content[:4] == b"RIFF"
    assert content[4:8] == content[40:44] == b"\xff" * 4
    assert content[44:] == b"".join(SPEECH)


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
@pytest.mark.parametrize("audio_format", ["pcm", "wav", "mp3", "opus", "aac", "flac"])
def test_first_bytes_leave_before_the_speech_has_ended(
    client: httpx.Client, engine: FakeEngine, audio_format: str, stream_format: str
) -> None:
    engine.plan.hold_at = 2
    asked = BODY | {"response_format": audio_format, "stream_format": stream_format}
    with client.stream("POST", URL, json=asked) as answer:
        parts = answer.iter_raw()
        first = next(parts)
        stream = engine.streams[-1]
        assert first
        assert not stream.ended.is_set()
        stream.plan.hold.set()
        rest = b"".join(parts)
    assert rest
    assert stream.finish_reason == "stop"


def test_status_waits_for_the_first_audio(client: httpx.Client, engine: FakeEngine) -> None:
    engine.plan.hold_at = 0
    with httpx.Client(base_url=client.base_url, timeout=0.3) as impatient, pytest.raises(httpx.ReadTimeout):
        impatient.post(URL, json=BODY)


def test_what_was_asked_reaches_the_engine(client: httpx.Client, engine: FakeEngine) -> None:
    extras = {"temperature": 0, "top_p": 0.5, "top_k": 9, "repetition_penalty": 1.2, "seed": -5, "max_tokens": 70}
    asked = BODY | extras | {"voice": {"id": "onyx"}, "instructions": "Be cheerful.", "speed": None, "extra": [1]}
    assert client.post(URL, json=asked).status_code == 200
    stream = engine.streams[-1]
    assert (stream.text, stream.voice) == ("Hello there.", "leo")
    assert stream.params == SamplingParams(0, 0.5, 9, 1.2, None, -5, 70)


@pytest.mark.parametrize("model", [*ALIASES, "lyre-demo"])
def test_every_listed_model_name_works(client: httpx.Client, model: str) -> None:
    assert client.post(URL, json=BODY | {"model": model}).status_code == 200


def test_content_type_of_the_request_does_not_matter(client: httpx.Client) -> None:
    answer = client.post(URL, content=json.dumps(BODY), headers={"content-type": "text/plain", "accept": "text/html"})
    assert answer.status_code == 200


def test_a_text_of_full_length_in_four_byte_characters_passes(client: httpx.Client, engine: FakeEngine) -> None:
    text = "\U0001f600" * 4096
    # Escaped as surrogate pairs, the largest body that a valid text needs.
    assert client.post(URL, content=json.dumps(BODY | {"input": text})).status_code == 200
    assert engine.streams[-1].text == text


def test_speed_shortens(client: httpx.Client) -> None:
    normal = client.post(URL, json=BODY | {"response_format": "pcm", "speed": 1}).content
    fast = client.post(URL, json=BODY | {"response_format": "pcm", "speed": 2}).content
    assert len(fast) == pytest.approx(len(normal) / 2, rel=0.1)


def records(content: bytes) -> list[str]:
    """The data of each event, the framing checked byte by byte."""
    assert content.endswith(b"\r\n\r\n")
    parts = content.decode("ascii").split("\r\n\r\n")[:-1]
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [part.removeprefix("data: ") for part in parts]


@pytest.mark.parametrize("audio_format", ["mp3", "wav", "pcm"])
def test_sse_carries_the_same_bytes(client: httpx.Client, audio_format: str) -> None:
    asked = BODY | {"response_format": audio_format}
    plain = client.post(URL, json=asked).content
    answer = client.post(URL, json=asked | {"stream_format": "sse"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    *deltas, done, end = records(answer.content)
    parts = [base64.b64decode(json.loads(delta)["audio"], validate=True) for delta in deltas]
    assert b"".join(parts) == plain
    assert all(0 < len(part) <= MAX_DELTA for part in parts)
    assert all(delta.startswith('{"type":"speech.audio.delta","audio":"') for delta in deltas)
    usage = '{"input_tokens":12,"output_tokens":84,"total_tokens":96,"finish_reason":"stop"}'
    assert done == f'{{"type":"speech.audio.done","usage":{usage}}}'
    assert end == "[DONE]"


def test_sse_deltas_of_pcm_hold_whole_samples(client: httpx.Client) -> None:
    answer = client.post(URL, json=BODY | {"response_format": "pcm", "stream_format": "sse", "speed": 1.3})
    parts = [base64.b64decode(json.loads(delta)["audio"]) for delta in records(answer.content)[:-2]]
    assert all(len(part) % 2 == 0 for part in parts)


def test_the_slot_is_free_after_every_request(client: httpx.Client, engine: FakeEngine) -> None:
    for _ in range(20):
        client.post(URL, json=BODY)
    assert eventually(lambda: engine.running == 0)
    assert {stream.finish_reason for stream in engine.streams} == {"stop"}


def test_a_connection_serves_many_requests(client: httpx.Client) -> None:
    ports = set()
    for _ in range(3):
        with client.stream("POST", URL, json=BODY) as answer:
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
            answer.read()
    assert len(ports) == 1


@pytest.mark.parametrize(
    "path", ["/audio/speech", "/v1/audio/speech/", "/openai/deployments/mine/audio/speech?api-version=1"]
)
def test_other_paths_to_the_same(client: httpx.Client, path: str) -> None:
    assert client.post(path, json=BODY | {"response_format": "pcm"}).content == b"".join(SPEECH)


def test_a_deployment_is_the_model_when_the_body_names_none(client: httpx.Client) -> None:
    def status(deployment: str, **fields: str | None) -> int:
        body = {name: value for name, value in (BODY | fields).items() if value is not None}
        return client.post(f"/openai/deployments/{deployment}/audio/speech", json=body).status_code

    assert status("tts-1", model=None) == 200
    assert status("mine", model=None) == 404
    assert status("mine", model="tts-1") == 200
    assert status("tts-1", model="whisper-1") == 404
