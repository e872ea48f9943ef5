"""The openai package for Python: whole answers, streams, events, lists."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

from tests.clients.conftest import KEY
from tests.clients.lyre_process import LyreProcess
from tests.clients.spoken import FORMATS, LONG, MEDIA_TYPES, SENTENCE, Sound, assert_lasts, assert_speaks, decode

SEEDED: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": SENTENCE, "extra_body": {"seed": 7}}


@pytest.fixture(scope="module")
def client(server: LyreProcess) -> Iterator[OpenAI]:
    """As deployed code has it: only the base URL is new."""
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def spoken_once(client: OpenAI) -> Sound:
    """The seeded sentence as pcm."""
    return decode(client.audio.speech.create(**SEEDED, response_format="pcm").content, "pcm")


@pytest.mark.parametrize("response_format", FORMATS)
def test_every_format_is_the_same_speech(client: OpenAI, spoken_once: Sound, response_format: Any) -> None:
    answer = client.audio.speech.create(**SEEDED, response_format=response_format)
    assert answer.response.headers["content-type"] == MEDIA_TYPES[response_format]
    sound = decode(answer.content, response_format)
    assert_speaks(sound, SENTENCE)
    assert_lasts(sound, spoken_once.seconds)
    assert sound.seconds == pytest.approx(spoken_once.seconds, rel=0.02)


def test_mp3_is_what_comes_when_no_format_is_asked_for(client: OpenAI) -> None:
    answer = client.audio.speech.create(model="gpt-4o-mini-tts", voice="coral", input=SENTENCE)
    assert answer.response.headers["content-type"] == "audio/mpeg"
    assert_speaks(decode(answer.content), SENTENCE)


@pytest.mark.parametrize("response_format", FORMATS)
def test_the_first_bytes_come_while_the_rest_is_unspoken(
    client: OpenAI, server: LyreProcess, response_format: Any
) -> None:
    server.wait_idle()
    speech = client.audio.speech.with_streaming_response
    with speech.create(model="tts-1", voice="ash", input=LONG, response_format=response_format) as answer:
        parts = answer.iter_bytes(64)
        assert next(parts)
        assert server.running == 1
        request_id = answer.headers["x-request-id"]
    assert server.line(request_id)["outcome"] == "client_disconnect"


def test_stream_to_file(client: OpenAI, server: LyreProcess, tmp_path: Path) -> None:
    speech = client.audio.speech.with_streaming_response
    with speech.create(model="tts-1-hd", voice="nova", input=SENTENCE, response_format="wav") as answer:
        answer.stream_to_file(tmp_path / "speech.wav")
        request_id = answer.headers["x-request-id"]
    sound = decode((tmp_path / "speech.wav").read_bytes())
    assert_speaks(sound, SENTENCE)
    assert_lasts(sound, server.line(request_id)["audio_s"])


def test_write_to_file(client: OpenAI, tmp_path: Path) -> None:
    answer = client.audio.speech.create(model="tts-1", voice="echo", input=SENTENCE, response_format="flac")
    answer.write_to_file(tmp_path / "speech.flac")
    assert_speaks(decode((tmp_path / "speech.flac").read_bytes()), SENTENCE)


async def test_async_streams_side_by_side(server: LyreProcess) -> None:
    heard: dict[str, Sound] = {}

    async def listen(voice: str) -> None:
        speech = client.audio.speech.with_streaming_response
        async with speech.create(model="tts-1", voice=voice, input=SENTENCE, response_format="opus") as answer:
            heard[voice] = decode(b"".join([part async for part in answer.iter_bytes()]))

    async with (
        AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
        anyio.create_task_group() as tasks,
    ):
        for voice in ("shimmer", "onyx"):
            tasks.start_soon(listen, voice)
    assert set(heard) == {"shimmer", "onyx"}
    for sound in heard.values():
        assert_speaks(sound, SENTENCE)


async def test_async_create(server: LyreProcess) -> None:
    async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        answer = await client.audio.speech.create(model="tts-1", voice="sage", input=SENTENCE, response_format="aac")
        assert_speaks(decode(await answer.aread()), SENTENCE)


@pytest.mark.parametrize("response_format", ["mp3", "pcm"])
def test_events_parsed_by_hand(client: OpenAI, spoken_once: Sound, response_format: Any) -> None:
    asked = client.audio.speech.with_streaming_response.create(
        **SEEDED, response_format=response_format, stream_format="sse"
    )
    with asked as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        records = [line for line in answer.iter_lines() if line]
    assert records.pop() == "data: [DONE]"
    _assert_events([json.loads(record.removeprefix("data: ")) for record in records], response_format, spoken_once)


def test_events_from_the_sdks_decoder(client: OpenAI, spoken_once: Sound) -> None:
    body = {"model": "tts-1", "voice": "alloy", "input": SENTENCE, "seed": 7, "stream_format": "sse"}
    stream = client.post(
        "/audio/speech", body=body, cast_to=object, stream=True, stream_cls=openai.Stream[dict[str, Any]]
    )
    _assert_events(list(stream), "mp3", spoken_once)


def _assert_events(events: list[dict[str, Any]], response_format: str, expected: Sound) -> None:
    done = events.pop()
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_tokens"] > 0
    # Seven tokens are a frame of 2,048 samples.
    assert usage["output_tokens"] >= 7 * int(expected.seconds * expected.rate / 2048)
    assert {event["type"] for event in events} == {"speech.audio.delta"}
    assert len(events) > 1
    sound = decode(b"".join(base64.b64decode(event["audio"]) for event in events), response_format)
    assert_speaks(sound, SENTENCE)
    assert_lasts(sound, expected.seconds)


def test_speed(client: OpenAI, spoken_once: Sound) -> None:
    answer = client.audio.speech.create(**SEEDED, response_format="wav", speed=2)
    assert decode(answer.content).seconds == pytest.approx(spoken_once.seconds / 2, rel=0.05)


def test_voices_may_be_objects_and_instructions_null(client: OpenAI) -> None:
    answer = client.audio.speech.create(
        model="gpt-4o-mini-tts",
        voice={"id": "tara"},
        input=SENTENCE,
        response_format="wav",
        extra_body={"instructions": None, "seed": None},
    )
    assert_speaks(decode(answer.content), SENTENCE)


def test_instructions_are_never_spoken(client: OpenAI, spoken_once: Sound) -> None:
    instructions = "Speak in a cheerful and positive tone, as if to a friend who has just come home. " * 5
    answer = client.audio.speech.create(**SEEDED, response_format="wav", instructions=instructions)
    assert_lasts(decode(answer.content), spoken_once.seconds)


def test_models(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15"} <= set(names)
    for name in names:
        model = client.models.retrieve(name)
        assert (model.id, model.object) == (name, "model")
    assert any("/" in name for name in names)


def test_leaving_frees_the_place(guarded: LyreProcess) -> None:
    with OpenAI(base_url=guarded.base_url, api_key=KEY, max_retries=0) as client:
        speech = client.audio.speech.with_streaming_response
        with speech.create(model="tts-1", voice="tara", input=LONG, response_format="pcm") as answer:
            parts = answer.iter_bytes(64)
            assert next(parts)
        guarded.wait_idle()
        answer = client.audio.speech.create(model="tts-1", voice="leo", input=SENTENCE, response_format="pcm")
        assert_speaks(decode(answer.content, "pcm"), SENTENCE)


def test_the_azure_client(guarded: LyreProcess) -> None:
    with AzureOpenAI(azure_endpoint=guarded.url, api_key=KEY, api_version="2025-03-01-preview") as client:
        answer = client.audio.speech.create(model="tts-1", voice="alloy", input=SENTENCE, response_format="opus")
    assert_speaks(decode(answer.content), SENTENCE)
