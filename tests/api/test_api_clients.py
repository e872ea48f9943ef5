"""The OpenAI SDK against the server, with the fake engine and, where the demo voice is there, with the real one."""

from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from tests.api.live_server import PATIENCE, LiveServer, decode, eventually


@pytest.fixture
def sdk(any_server: LiveServer) -> Iterator[OpenAI]:
    """A client as deployed code has it: only the base URL is new."""
    with OpenAI(base_url=any_server.url + "/v1", api_key="any", max_retries=0, timeout=6 * PATIENCE) as client:
        yield client


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "flac"])
def test_create(sdk: OpenAI, audio_format: str) -> None:
    answer = sdk.audio.speech.create(
        model="gpt-4o-mini-tts",
        input="Good morning.",
        voice="nova",
        response_format=audio_format,  # pyright: ignore[reportArgumentType]
    )
    pcm, rate = decode(answer.content)
    assert len(pcm) / 2 / rate > 0.3


def test_streaming(sdk: OpenAI) -> None:
    asked = sdk.audio.speech.with_streaming_response.create(
        model="tts-1", input="Good morning.", voice="onyx", response_format="pcm"
    )
    with asked as answer:
        assert answer.headers["content-type"] == "audio/pcm"
        assert answer.headers["x-request-id"]
        content = b"".join(answer.iter_bytes(1024))
    assert len(content) % 2 == 0
    assert any(content)


def test_a_seed_repeats_the_audio(sdk: OpenAI) -> None:
    first, second = (
        sdk.audio.speech.create(
            model="tts-1", input="Yes.", voice="tara", response_format="pcm", extra_body={"seed": 11}
        ).content
        for _ in range(2)
    )
    assert first == second


def test_two_at_once(sdk: OpenAI) -> None:
    asked = [
        sdk.audio.speech.with_streaming_response.create(
            model="tts-1", input="Yes.", voice=voice, response_format="pcm", extra_body={"seed": 11}
        )
        for voice in ("tara", "leo")
    ]
    with asked[0] as first, asked[1] as second:
        assert first.read()
        assert second.read()


def test_leaving_frees_the_slot(sdk: OpenAI, any_server: LiveServer) -> None:
    asked = sdk.audio.speech.with_streaming_response.create(
        model="tts-1", input="This is a long sentence. " * 20, voice="tara", response_format="pcm"
    )
    with asked as answer:
        assert next(answer.iter_bytes(100))
    assert eventually(lambda: any_server.engine.running == 0)


def test_errors_are_the_sdks_own(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.audio.speech.create(model="tts-1", input="x" * 4097, voice="alloy")
    assert bad.value.param == "input"
    assert bad.value.request_id
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.audio.speech.create(model="whisper-1", input="x", voice="alloy")
    assert missing.value.code == "model_not_found"


def test_models(sdk: OpenAI) -> None:
    assert "tts-1" in [model.id for model in sdk.models.list()]
    assert sdk.models.retrieve("canopylabs/orpheus-3b-0.1-ft").id == "canopylabs/orpheus-3b-0.1-ft"
