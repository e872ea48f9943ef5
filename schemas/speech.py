"""The body of POST /v1/audio/speech, OpenAI's fields first, and the two server-sent events of its answer.

Unknown fields are ignored; `null` means absent. Ranges of the sampling fields are the engine's to check.
"""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from schemas.absence import optional_takes_null
from schemas.normalize import Normalize, NormalizeSwitches

MAX_INPUT: Final = 4096
"""Characters of `input` and of `instructions`, counted as Unicode code points."""

SAMPLING_FIELDS: Final = (
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "repetition_window",
    "seed",
    "max_tokens",
)
"""The fields beyond OpenAI's, named as the engine's SamplingParams names them."""


class ResponseFormat(StrEnum):
    """How the audio is encoded."""

    MP3 = "mp3"
    OPUS = "opus"
    AAC = "aac"
    FLAC = "flac"
    WAV = "wav"
    PCM = "pcm"


class StreamFormat(StrEnum):
    """How the audio travels: as it is, or as base64 inside server-sent events."""

    AUDIO = "audio"
    SSE = "sse"


class VoiceRef(BaseModel):
    """The object form of `voice`."""

    id: str = Field(min_length=1)


def _voice_name(value: Any) -> Any:
    """`{"id": "tara"}` and `"tara"` name the same voice."""
    name = value.get("id") if isinstance(value, dict) else value
    if not isinstance(name, str) or not name:
        raise ValueError("must be a voice's name or an object with its id")
    return name


def _not_blank(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise ValueError("must hold text to speak")
    return value


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 7.0 is 7."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


VoiceName = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_whole), Field(strict=True)]


class SpeechRequest(BaseModel):
    """What to say, in which voice, and how to send it."""

    model_config = ConfigDict(extra="ignore", frozen=True, json_schema_extra=optional_takes_null)

    model: str
    input: Annotated[str, BeforeValidator(_not_blank)] = Field(max_length=MAX_INPUT)
    voice: Annotated[str, BeforeValidator(_voice_name, json_schema_input_type=VoiceName | VoiceRef)]
    instructions: str | None = Field(default=None, max_length=MAX_INPUT)
    response_format: ResponseFormat = ResponseFormat.MP3
    speed: Number = Field(default=1.0, ge=0.25, le=4.0)
    stream_format: StreamFormat = StreamFormat.AUDIO

    normalize: Normalize = NormalizeSwitches()
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Whole | None = None
    repetition_penalty: Number | None = None
    repetition_window: Whole | None = None
    seed: Whole | None = None
    max_tokens: Whole | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any, info: ValidationInfo) -> Any:
        """The validation's context holds values for fields that are absent."""
        if isinstance(data, dict):
            return {**(info.context or {}), **{name: value for name, value in data.items() if value is not None}}
        return data

    def sampling(self) -> dict[str, float | int | None]:
        """The sampling fields by name."""
        return self.model_dump(include=set(SAMPLING_FIELDS))


class AudioDelta(BaseModel):
    """Part of the encoded audio, base64, to be joined in order."""

    type: Literal["speech.audio.delta"] = "speech.audio.delta"
    audio: str


class Usage(BaseModel):
    """What a request cost: text tokens in, audio tokens out. And, beyond OpenAI's, why it ended."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    finish_reason: str = Field(
        description="stop: the model ended its speech. Else a piece of the text may not be whole: length (max_tokens, "
        "or far more audio than its text needs), repetition (the same over and over), silence (no sound for too long)."
    )


class AudioDone(BaseModel):
    """The end of the audio."""

    type: Literal["speech.audio.done"] = "speech.audio.done"
    usage: Usage
