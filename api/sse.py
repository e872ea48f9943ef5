"""Audio as server-sent events, as OpenAI sends them: deltas, one `done` with the usage, then [DONE]."""

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from pydantic import BaseModel

from api.errors import ApiError
from engine import EngineError, SpeechStream
from schemas.speech import AudioDelta, AudioDone, Usage

MEDIA_TYPE: Final = "text/event-stream; charset=utf-8"
MAX_DELTA: Final = 4096
"""Bytes of audio in one delta at most. An even number: a delta of pcm holds whole samples."""


async def events(audio: AsyncGenerator[bytes, None], stream: SpeechStream) -> AsyncGenerator[bytes, None]:
    """The encoded audio as events, none held back; an error is told before it is raised again."""
    try:
        async with aclosing(audio):
            async for part in audio:
                for start in range(0, len(part), MAX_DELTA):
                    delta = base64.b64encode(part[start : start + MAX_DELTA]).decode()
                    yield _event(AudioDelta(audio=delta))
    except EngineError as error:
        yield _event(ApiError(500, f"The speech broke off: {error}").body())
        raise
    yield _event(AudioDone(usage=_usage(stream)))
    yield b"data: [DONE]\r\n\r\n"


def _usage(stream: SpeechStream) -> Usage:
    assert stream.finish_reason is not None
    return Usage(
        input_tokens=stream.input_tokens,
        output_tokens=stream.output_tokens,
        total_tokens=stream.input_tokens + stream.output_tokens,
        finish_reason=stream.finish_reason,
    )


def _event(data: BaseModel) -> bytes:
    return b"data: " + data.model_dump_json().encode() + b"\r\n\r\n"
