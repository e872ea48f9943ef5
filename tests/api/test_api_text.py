"""The field `normalize`, and texts without a word, over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from engine import Normaliser
from schemas.normalize import NormalizeSwitches
from schemas.speech import SpeechRequest
from tests.api.fake_engine import FakeEngine
from tests.api.live_server import BODY, PCM, URL, LiveServer, decode, error_of

FORMATS = ["mp3", "opus", "aac", "flac", "wav", "pcm"]


def test_the_switches_are_the_normalisers() -> None:
    assert list(NormalizeSwitches.model_fields) == list(Normaliser.__dataclass_fields__)
    assert Normaliser(**NormalizeSwitches().model_dump()) == Normaliser()


@pytest.mark.parametrize(
    ("asked", "normaliser"),
    [
        ({}, Normaliser()),
        ({"normalize": None}, Normaliser()),
        ({"normalize": True}, Normaliser()),
        ({"normalize": {}}, Normaliser()),
        ({"normalize": False}, Normaliser.off()),
        ({"normalize": {"numbers": False, "emoji": True}}, Normaliser(numbers=False)),
        ({"normalize": {"markdown": None, "urls": False}}, Normaliser(urls=False)),
    ],
)
def test_what_was_asked_reaches_the_engine(
    client: httpx.Client, engine: FakeEngine, asked: dict[str, Any], normaliser: Normaliser
) -> None:
    assert client.post(URL, json=BODY | asked).status_code == 200
    assert engine.streams[-1].normaliser == normaliser


@pytest.mark.parametrize("asked", ["yes", 1, 0, [], ["numbers"], {"number": False}, {"numbers": "no"}, {"numbers": 0}])
def test_a_wrong_switch_is_refused(client: httpx.Client, engine: FakeEngine, asked: Any) -> None:
    answer = client.post(URL, json=BODY | {"normalize": asked})
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["param"] == "normalize"
    assert engine.streams == []


def test_a_misspelt_switch_is_named(client: httpx.Client) -> None:
    assert "numberz" in error_of(client.post(URL, json=BODY | {"normalize": {"numberz": True}}))["message"]


def test_the_limit_counts_what_the_user_wrote() -> None:
    text = "1" * 4096  # four times as long in words
    assert SpeechRequest.model_validate(BODY | {"input": text}).input == text
    assert len(Normaliser()(text)) > 4096


@pytest.mark.parametrize("any_server", ["real"], indirect=True)
@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_text_without_a_word_is_short_silence_in_every_format(any_server: LiveServer, audio_format: str) -> None:
    for text in ("...", "😀"):
        asked = BODY | {"input": text, "response_format": audio_format, "voice": "tara"}
        answer = httpx.post(any_server.url + URL, json=asked, timeout=60)
        assert answer.status_code == 200
        container = {"aac": "aac", "opus": "ogg"}.get(audio_format, audio_format)
        samples = answer.content if audio_format == "pcm" else decode(answer.content, container)[0]
        assert 0.28 * 48_000 <= len(samples) <= 0.5 * 48_000 * (1 if audio_format != "opus" else 2)
        assert max(samples) == 0 or audio_format in ("mp3", "opus", "aac")


@pytest.mark.parametrize("any_server", ["real"], indirect=True)
def test_silence_costs_no_tokens(any_server: LiveServer) -> None:
    asked = PCM | {"input": "!!!", "voice": "tara", "stream_format": "sse"}
    answer = httpx.post(any_server.url + URL, json=asked, timeout=60)
    assert '"usage":{"input_tokens":0,"output_tokens":0,"total_tokens":0,"finish_reason":"stop"}' in answer.text
    assert answer.text.endswith("data: [DONE]\r\n\r\n")


@pytest.mark.parametrize("any_server", ["real"], indirect=True)
def test_a_tag_alone_goes_to_the_model(any_server: LiveServer) -> None:
    asked = PCM | {"input": "<laugh>", "voice": "tara", "max_tokens": 70, "stream_format": "sse"}
    answer = httpx.post(any_server.url + URL, json=asked, timeout=60)
    assert '"output_tokens":0' not in answer.text


@pytest.mark.parametrize("text", ["", " \n\t", "\u3000"])
def test_a_blank_text_is_still_refused(client: httpx.Client, text: str) -> None:
    answer = client.post(URL, json=BODY | {"input": text})
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "input"
