"""livekit-plugins-openai, as a voice agent uses it: one request a sentence, interrupted at any moment."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from livekit import rtc
from livekit.agents import APIConnectOptions, APIStatusError
from livekit.agents.metrics import TTSMetrics
from livekit.agents.tts import TTS
from livekit.plugins import openai

from tests.clients.conftest import KEY
from tests.clients.lyre_process import LyreProcess
from tests.clients.spoken import FORMATS, LONG, SENTENCE, Sound, assert_lasts, assert_speaks, from_pcm

ONCE = APIConnectOptions(max_retry=0)


@asynccontextmanager
async def speaker(server: LyreProcess, **options: Any) -> AsyncIterator[openai.TTS]:
    """The plugin against the server; `options` as an agent's code gives them."""
    given: dict[str, Any] = {"base_url": server.base_url, "api_key": "none"} | options
    async with openai.TTS(**given) as tts:
        assert isinstance(tts, openai.TTS)
        yield tts


async def said(tts: TTS, text: str) -> tuple[Sound, TTSMetrics]:
    """The sound of all frames, and what the plugin measured."""
    measured = asyncio.get_running_loop().create_future()
    tts.once("metrics_collected", measured.set_result)
    async with tts.synthesize(text, conn_options=ONCE) as stream:
        frames = [event.frame async for event in stream]
    assert {(frame.sample_rate, frame.num_channels) for frame in frames} == {(24_000, 1)}
    return from_pcm(bytes(rtc.combine_audio_frames(frames).data)), await measured


@pytest.mark.parametrize("response_format", FORMATS)
@pytest.mark.parametrize("model", ["gpt-4o-mini-tts", "tts-1"])
async def test_every_format(
    server: LyreProcess, caplog: pytest.LogCaptureFixture, model: str, response_format: str
) -> None:
    """gpt-4o-mini-tts is asked for as events, tts-1 as audio."""
    async with speaker(server, model=model, response_format=response_format) as tts:
        sound, metrics = await said(tts, SENTENCE)
    assert_speaks(sound, SENTENCE)
    line = server.line(metrics.request_id)
    assert line["outcome"] == "ok"
    assert_lasts(sound, line["audio_s"])
    assert (metrics.input_tokens > 0) == (metrics.output_tokens > 0) == (model == "gpt-4o-mini-tts")
    # The plugin warns when an answer has no request id, and when it tries again.
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_nothing_but_the_base_url(server: LyreProcess) -> None:
    async with speaker(server) as tts:
        sound, metrics = await said(tts, SENTENCE)
    assert_speaks(sound, SENTENCE)
    assert server.line(metrics.request_id)["format"] == "mp3"


async def test_prewarm_is_answered(server: LyreProcess) -> None:
    async with speaker(server) as tts:
        tts.prewarm()
        task = tts._prewarm_task
        assert task is not None
        await asyncio.wait_for(task, 30)
        assert_speaks((await said(tts, SENTENCE))[0], SENTENCE)


@pytest.mark.parametrize("model", ["gpt-4o-mini-tts", "tts-1"])
async def test_an_interruption_frees_the_place(guarded: LyreProcess, model: str) -> None:
    async with speaker(guarded, api_key=KEY, model=model) as tts:
        stream = tts.synthesize(LONG, conn_options=ONCE)
        event = await anext(stream)
        assert event.frame.duration > 0
        assert guarded.running == 1
        await stream.aclose()
        guarded.wait_idle()
        sound, _ = await said(tts, SENTENCE)
    assert_speaks(sound, SENTENCE)


async def test_an_error_has_its_status_and_request_id(server: LyreProcess) -> None:
    async with speaker(server, voice="nobody") as tts:
        with pytest.raises(APIStatusError) as raised:
            await said(tts, SENTENCE)
    assert raised.value.status_code == 400
    assert raised.value.request_id
    assert "voice" in raised.value.message


async def test_azure(guarded: LyreProcess) -> None:
    azure = openai.TTS.with_azure(azure_endpoint=guarded.url, api_key=KEY, api_version="2025-03-01-preview")
    async with azure as tts:
        sound, _ = await said(tts, SENTENCE)
    assert_speaks(sound, SENTENCE)
