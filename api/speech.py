"""POST /v1/audio/speech: parse, submit, await the first audio (so that errors have a true status), then stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.exceptions import InternalServerException

from api import sse
from api.audio import MEDIA_TYPES, AudioEncoder, encoder_for
from api.auth import require_key
from api.context import AppContext
from api.errors import ApiError, ClientGone, busy
from api.models import check_model
from api.streaming import SpeechResponse, unless_gone
from api.trace import trace_of
from api.voices import resolve_voice
from engine import GenerationFailed, SamplingParams
from schemas.speech import SpeechRequest, StreamFormat

MAX_BODY: Final = 64 * 1024
BODY_SECONDS: Final = 20.0
"""How long a client may take to send its body."""


@post("/v1/audio/speech", status_code=200, guards=[require_key], request_max_body_size=MAX_BODY)
async def create_speech(request: Request[Any, Any, Any], context: NamedDependency[AppContext]) -> SpeechResponse:
    """Speak a text; the audio is streamed while it is generated."""
    trace = trace_of(request.scope)
    asked = SpeechRequest.model_validate_json(await _read_body(request))
    info = context.engine.info
    check_model(asked.model, info)
    trace.voice, trace.format = resolve_voice(asked.voice, info.voices), asked.response_format.value
    params = SamplingParams(**asked.sampling())  # pyright: ignore[reportArgumentType]
    stream = context.engine.submit(asked.input, trace.voice, params)
    try:
        chunks = aiter(stream)
        first = await unless_gone(_first_chunk(chunks, context.settings.first_chunk_timeout), request.receive)
        audio = _encoded(first, chunks, encoder_for(asked.response_format, asked.speed))
    except BaseException:
        # This broad because a task that is cancelled must free its slot, too.
        stream.cancel()
        raise
    trace.ttfa = trace.elapsed
    headers = {"content-type": MEDIA_TYPES[asked.response_format], "x-accel-buffering": "no"}
    if asked.stream_format is StreamFormat.SSE:
        audio = sse.events(audio, stream)
        headers |= {"content-type": sse.MEDIA_TYPE, "cache-control": "no-store"}
    return SpeechResponse(audio, stream, headers, trace, context.settings.send_timeout)


async def _read_body(request: Request[Any, Any, Any]) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.body()
    except TimeoutError:
        raise ApiError(408, "The body of the request did not arrive in time.", outcome="timeout") from None
    except InternalServerException:
        # Litestar's word for a client that left in the middle of its upload.
        raise ClientGone from None


async def _first_chunk(chunks: AsyncIterator[bytes], seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            async for pcm in chunks:
                if pcm:
                    return pcm
    except TimeoutError:
        message = f"The server did not begin to speak within {seconds:g} s. Please retry shortly."
        raise busy(message, "timeout", "timeout") from None
    raise GenerationFailed("the model made no audio for this text")


async def _encoded(first: bytes, chunks: AsyncIterator[bytes], encoder: AudioEncoder) -> AsyncGenerator[bytes, None]:
    yield encoder.encode(first)
    async for pcm in chunks:
        yield encoder.encode(pcm)
    yield encoder.flush()
