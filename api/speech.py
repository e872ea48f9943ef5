"""POST /v1/audio/speech: parse, submit, await the first audio (so that errors have a true status), then stream."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.exceptions import InternalServerException

from api import sse
from api.audio import MEDIA_TYPES, AudioEncoder, encoder_for
from api.auth import caller, require_key
from api.context import AppContext
from api.errors import ApiError, ClientGone, busy
from api.models import check_model
from api.protocol import REFUSED
from api.streaming import SpeechResponse, unless_gone
from api.trace import Trace, trace_of, watched
from api.voices import resolve_voice
from engine import GenerationFailed, Normaliser, SamplingParams, SpeechStream
from schemas.speech import SpeechRequest, StreamFormat

MAX_BODY: Final = 128 * 1024
"""Bytes. Two texts of 4,096 characters, each of which JSON may write in twelve bytes, fit with room to spare."""

_ENCODERS: Final = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "encoder")
"""At hundreds of streams the slow formats take more than one core."""

PATHS: Final = [
    "/v1/audio/speech",
    # For base URLs without the version, and for clients made for Azure.
    "/audio/speech",
    "/openai/deployments/{deployment:str}/audio/speech",
]


@post(PATHS, status_code=200, guards=[require_key], middleware=[watched], request_max_body_size=MAX_BODY)
async def create_speech(request: Request[Any, Any, Any], context: NamedDependency[AppContext]) -> SpeechResponse:
    """Speak a text; the audio is streamed while it is generated."""
    trace = trace_of(request.scope)
    who = caller(request)
    context.limits.count(who, trace.headers)
    if not context.lifecycle.draining:
        # Before the body is read. A drain's answers close their connection, and closing on a body that is still under
        # way resets it: the client might never see why.
        context.admission.check()
    asked = await _asked(request, context.settings.body_timeout)
    with ExitStack() as ends:
        ends.enter_context(context.limits.seat(who))
        ends.enter_context(context.admission.seat())
        stream = _submitted(asked, context, trace)
        ends.callback(stream.cancel)
        # Made while the first audio is: opening an encoder takes milliseconds.
        encoder = encoder_for(asked.response_format, asked.speed)
        chunks = aiter(stream)
        first = await _first_or_shutdown(_first_chunk(chunks, context.settings.first_chunk_timeout), request)
        trace.ttfa = trace.elapsed
        audio = encoded(first, chunks, encoder)
        headers = {
            "content-type": MEDIA_TYPES[asked.response_format],
            "x-accel-buffering": "no",
            "server-timing": trace.server_timing,
        }
        if asked.stream_format is StreamFormat.SSE:
            audio = sse.events(audio, stream)
            headers |= {"content-type": sse.MEDIA_TYPE, "cache-control": "no-store"}
        return SpeechResponse(audio, stream, ends.pop_all(), headers, trace, context.settings.send_timeout)


async def _asked(request: Request[Any, Any, Any], seconds: float) -> SpeechRequest:
    """The body. Whatever its content type says it is JSON: `curl -d` calls everything a form."""
    body = (await _read_body(request, seconds)).removeprefix(b"\xef\xbb\xbf")
    # Azure's clients may leave the model to the URL.
    deployment = request.path_params.get("deployment")
    return SpeechRequest.model_validate_json(body, context={"model": deployment} if deployment else None)


def _submitted(asked: SpeechRequest, context: AppContext, trace: Trace) -> SpeechStream:
    trace.format, trace.sse = asked.response_format.value, asked.stream_format is StreamFormat.SSE
    trace.chars = len(asked.input)
    info = context.engine.info
    check_model(asked.model, info)
    voice = resolve_voice(asked.voice, info.voices, context.settings.voices)
    trace.voice = voice
    params = SamplingParams(**asked.sampling())  # pyright: ignore[reportArgumentType]
    stream = context.engine.submit(asked.input, voice, params, Normaliser(**asked.normalize.model_dump()))
    stream.timings.speed = asked.speed
    trace.stream = stream
    return stream


async def _read_body(request: Request[Any, Any, Any], seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            return await request.body()
    except TimeoutError:
        # The rest of it is not waited for either.
        late = "The body of the request did not arrive in time."
        raise ApiError(408, late, outcome="timeout", headers={"connection": "close"}) from None
    except InternalServerException:
        # Litestar's word for a body that has no end.
        if request.scope["state"].get(REFUSED):
            raise ApiError(400, "Invalid HTTP request received.") from None
        raise ClientGone from None


async def _first_or_shutdown(first: Coroutine[Any, Any, bytes], request: Request[Any, Any, Any]) -> bytes:
    try:
        return await unless_gone(first, request.receive)
    except asyncio.CancelledError:
        # The time for the drain is over. The web server would answer 500 in plain text.
        raise busy("The server is going down. Please retry shortly.", "unavailable", "shutdown") from None


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


async def encoded(first: bytes, chunks: AsyncIterator[bytes], encoder: AudioEncoder) -> AsyncGenerator[bytes, None]:
    """The whole answer in its format; one part, which may be empty, for each chunk and one for the end."""
    yield await _aside(encoder, partial(encoder.encode, first))
    async for pcm in chunks:
        yield await _aside(encoder, partial(encoder.encode, pcm))
    yield await _aside(encoder, encoder.flush)


async def _aside(encoder: AudioEncoder, work: Callable[[], bytes]) -> bytes:
    """The result of `work`. FFmpeg works outside of the interpreter's lock, so that others are served meanwhile."""
    if not encoder.slow:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_ENCODERS, work)
