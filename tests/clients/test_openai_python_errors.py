"""The openai package for Python: what is wrong arrives as its own exceptions, what is busy is tried again."""

import time
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.clients.conftest import KEY
from tests.clients.lyre_process import LyreProcess
from tests.clients.spoken import LONG, SENTENCE, assert_speaks, decode

GOOD: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": SENTENCE}


@pytest.mark.parametrize(
    ("change", "error", "param", "code"),
    [
        ({"voice": "nobody"}, openai.BadRequestError, "voice", "invalid_value"),
        ({"input": "x" * 4097}, openai.BadRequestError, "input", "string_above_max_length"),
        ({"input": ""}, openai.BadRequestError, "input", None),
        ({"speed": 5}, openai.BadRequestError, "speed", None),
        ({"response_format": "ogg"}, openai.BadRequestError, "response_format", "invalid_value"),
        ({"model": "whisper-1"}, openai.NotFoundError, "model", "model_not_found"),
    ],
)
def test_bad_requests(
    server: LyreProcess, change: dict[str, Any], error: type[openai.APIStatusError], param: str, code: str | None
) -> None:
    with OpenAI(base_url=server.base_url, api_key="none") as client, pytest.raises(error) as raised:
        client.audio.speech.create(**GOOD | change)
    assert raised.value.param == param
    assert raised.value.code == code or code is None
    assert raised.value.type == "invalid_request_error"
    assert raised.value.request_id
    assert raised.value.message


def test_an_unknown_model_is_not_found(server: LyreProcess) -> None:
    with OpenAI(base_url=server.base_url, api_key="none") as client, pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("someone/else")
    assert (raised.value.param, raised.value.code) == ("model", "model_not_found")


@pytest.mark.parametrize("key", ["sk-wrong-0123456789abcdef", "x"])
def test_a_wrong_key(guarded: LyreProcess, key: str) -> None:
    with OpenAI(base_url=guarded.base_url, api_key=key) as client, pytest.raises(openai.AuthenticationError) as raised:
        client.audio.speech.create(**GOOD)
    assert raised.value.code == "invalid_api_key"
    assert raised.value.request_id
    assert key not in raised.value.message


def test_a_right_key(guarded: LyreProcess) -> None:
    with OpenAI(base_url=guarded.base_url, api_key=KEY, max_retries=0) as client:
        assert_speaks(decode(client.audio.speech.create(**GOOD).content), SENTENCE)


def test_busy_is_tried_again_when_the_server_says(guarded: LyreProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[httpx2.Response] = []
    waited: list[float] = []
    monkeypatch.setattr("openai._base_client.time", SimpleNamespace(sleep=waited.append, time=time.time))
    first = OpenAI(base_url=guarded.base_url, api_key=KEY, max_retries=0)
    speech = first.audio.speech.with_streaming_response
    with speech.create(model="tts-1", voice="tara", input=LONG, response_format="pcm") as running:
        parts = running.iter_bytes(64)
        assert next(parts)

        def note(answer: httpx2.Response) -> None:
            answers.append(answer)
            if answer.status_code == 503:
                running.close()
                guarded.wait_idle()

        second_http = openai.DefaultHttpxClient(event_hooks={"response": [note]})
        with OpenAI(base_url=guarded.base_url, api_key=KEY, http_client=second_http) as second:
            answer = second.audio.speech.create(**GOOD)
    first.close()
    assert_speaks(decode(answer.content), SENTENCE)
    assert [answer.status_code for answer in answers] == [503, 200]
    assert waited == [float(answers[0].headers["retry-after"])]
    assert 1 <= waited[0] <= 60


def test_busy_for_ever_is_an_internal_server_error(guarded: LyreProcess) -> None:
    with OpenAI(base_url=guarded.base_url, api_key=KEY, max_retries=0) as client:
        speech = client.audio.speech.with_streaming_response
        with speech.create(model="tts-1", voice="tara", input=LONG, response_format="pcm") as running:
            parts = running.iter_bytes(64)
            assert next(parts)
            with pytest.raises(openai.InternalServerError) as raised:
                client.audio.speech.create(**GOOD)
    assert raised.value.status_code == 503
    assert raised.value.message
