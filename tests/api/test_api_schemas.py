"""The request body: what is taken, what is refused, what is the default."""

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.speech import MAX_INPUT, ResponseFormat, SpeechRequest, StreamFormat

BODY = {"model": "tts-1", "input": "Hello.", "voice": "alloy"}


def parse(**fields: Any) -> SpeechRequest:
    return SpeechRequest.model_validate(BODY | fields)


def test_defaults_are_openais() -> None:
    asked = parse()
    assert (asked.response_format, asked.stream_format, asked.speed) == (ResponseFormat.MP3, StreamFormat.AUDIO, 1.0)


def test_sampling_fields_are_absent_unless_given() -> None:
    assert set(parse().sampling().values()) == {None}
    assert parse(temperature=0, seed=7, top_k=40).sampling() == {
        "temperature": 0,
        "top_p": None,
        "top_k": 40,
        "repetition_penalty": None,
        "repetition_window": None,
        "seed": 7,
        "max_tokens": None,
    }


def test_voice_may_be_an_object() -> None:
    assert parse(voice={"id": "tara"}).voice == "tara"


@pytest.mark.parametrize("voice", [[], ["tara"], 3, True, {}, {"id": 3}, {"name": "tara"}, ""])
def test_other_voices_are_refused(voice: Any) -> None:
    with pytest.raises(ValidationError, match="voice"):
        parse(voice=voice)


@pytest.mark.parametrize("field", ["instructions", "response_format", "speed", "stream_format", "temperature", "seed"])
def test_null_is_absence(field: str) -> None:
    assert parse(**{field: None}) == parse()


@pytest.mark.parametrize("field", ["model", "input", "voice"])
def test_null_of_a_required_field_is_missing(field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(**{field: None})
    assert caught.value.errors()[0]["type"] == "missing"


def test_unknown_fields_are_ignored() -> None:
    assert parse(backend="openai", user="x", extra_body={"a": 1}) == parse()


def test_input_counts_characters_not_bytes() -> None:
    assert parse(input="é" * MAX_INPUT).input == "é" * MAX_INPUT
    assert len(parse(input="\U0001f600" * MAX_INPUT).input) == MAX_INPUT
    with pytest.raises(ValidationError, match="4096"):
        parse(input="a" * (MAX_INPUT + 1))


@pytest.mark.parametrize("text", ["", " ", "\n\t \u00a0"])
def test_blank_input_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="input"):
        parse(input=text)


@pytest.mark.parametrize("text", [" a ", "...", "\u200d", "\0", "<laugh>", "<custom_token_3>"])
def test_odd_input_is_kept_as_it_is(text: str) -> None:
    assert parse(input=text).input == text


@pytest.mark.parametrize("speed", [0.25, 1, 4, 4.0])
def test_speed_limits_are_inclusive(speed: float) -> None:
    assert parse(speed=speed).speed == speed


@pytest.mark.parametrize("speed", [0.24, 4.01, -1, "1.0", True, float("nan"), float("inf")])
def test_other_speeds_are_refused(speed: Any) -> None:
    with pytest.raises(ValidationError, match="speed"):
        parse(speed=speed)


@pytest.mark.parametrize(
    ("field", "value"),
    [("response_format", "ogg"), ("stream_format", "websocket"), ("temperature", "hot"), ("seed", 1.5), ("top_k", "9")],
)
def test_wrong_values_name_their_field(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(**{field: value})
    assert caught.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize("number", ["7", "7.0", "7e0"])
def test_whole_numbers_may_have_a_point(number: str) -> None:
    body = f'{{"model": "tts-1", "input": "Hello.", "voice": "alloy", "seed": {number}}}'
    seed = SpeechRequest.model_validate_json(body).seed
    assert (seed, type(seed)) == (7, int)


def test_long_instructions_are_refused() -> None:
    with pytest.raises(ValidationError, match="instructions"):
        parse(instructions="x" * (MAX_INPUT + 1))
