"""pipecat-ai's OpenAITTSService in a pipeline, as a voice bot runs it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from openai import DefaultAsyncHttpxClient
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InterruptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.workers.runner import WorkerRunner

from tests.clients.conftest import KEY
from tests.clients.lyre_process import LEAVING, PATIENCE, LyreProcess
from tests.clients.spoken import LONG, SENTENCE, Sound, assert_lasts, assert_speaks, from_pcm


class Ear(FrameProcessor):
    """The end of the pipeline: keeps all that arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Frame] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Keep it and let it go on."""
        await super().process_frame(frame, direction)
        self.heard.append(frame)
        await self.push_frame(frame, direction)

    @property
    def audio(self) -> list[TTSAudioRawFrame]:
        """What it has heard of speech."""
        return [frame for frame in self.heard if isinstance(frame, TTSAudioRawFrame)]

    @property
    def sound(self) -> Sound:
        """The same in one piece."""
        return from_pcm(b"".join(frame.audio for frame in self.audio))


class Bot:
    """A pipeline of the service and an ear; `settings` as a bot's code gives them."""

    def __init__(self, server: LyreProcess, key: str = "none", **settings: Any) -> None:
        given = OpenAITTSService.Settings(**settings) if settings else None
        self.ear = Ear()
        self.errors: list[str] = []
        self.http = DefaultAsyncHttpxClient()
        self.service = OpenAITTSService(api_key=key, base_url=server.base_url, settings=given, http_client=self.http)
        self.worker = PipelineWorker(Pipeline([self.service, self.ear]), cancel_on_idle_timeout=False)
        self.worker.add_event_handler("on_pipeline_error", self._note)

    async def run(self, *steps: Frame | Callable[[], bool]) -> None:
        """Queue the frames in order, waiting where a condition stands between them, then end."""
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self.worker)
        running = asyncio.create_task(runner.run())
        for step in steps:
            if isinstance(step, Frame):
                await self.worker.queue_frame(step)
            else:
                await _until(step)
        await self.worker.queue_frame(EndFrame())
        await asyncio.wait_for(running, PATIENCE)
        # The service leaves this to whoever made it.
        await self.http.aclose()

    async def _note(self, _: PipelineWorker, frame: ErrorFrame) -> None:
        self.errors.append(frame.error)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LEAVING):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "settings", [{}, {"model": "tts-1", "voice": "nova", "speed": 1.0, "instructions": "Speak slowly."}]
)
async def test_a_pipeline_speaks(server: LyreProcess, settings: dict[str, Any]) -> None:
    bot, known = Bot(server, **settings), len(server.requests())
    await bot.run(TTSSpeakFrame(SENTENCE))
    assert bot.errors == []
    kinds = [type(frame) for frame in bot.ear.heard]
    assert kinds.index(TTSStartedFrame) < kinds.index(TTSAudioRawFrame) < kinds.index(TTSStoppedFrame)
    assert {(frame.sample_rate, frame.num_channels) for frame in bot.ear.audio} == {(24_000, 1)}
    # Half a second a frame: the service passes on what it has received while the rest is still being spoken.
    assert len(bot.ear.audio) > 5
    assert_speaks(bot.ear.sound, SENTENCE)
    assert_lasts(bot.ear.sound, server.next_line(known)["audio_s"])


async def test_sentences_follow_each_other(server: LyreProcess) -> None:
    bot = Bot(server)
    await bot.run(TTSSpeakFrame("Good morning, everybody."), TTSSpeakFrame(SENTENCE))
    assert_speaks(bot.ear.sound, "Good morning, everybody." + SENTENCE)


@pytest.mark.parametrize(
    ("settings", "reason"), [({"speed": 9.0}, "400 - Invalid 'speed'"), ({"model": "whisper-1"}, "404 - The model")]
)
async def test_errors_become_error_frames(server: LyreProcess, settings: dict[str, Any], reason: str) -> None:
    bot = Bot(server, **settings)
    await bot.run(TTSSpeakFrame(SENTENCE), lambda: bool(bot.errors))
    assert bot.ear.audio == []
    assert reason in bot.errors[0]


async def test_an_interruption_frees_the_place(guarded: LyreProcess) -> None:
    bot = Bot(guarded, KEY)
    at_interruption: list[int] = []

    def idle() -> bool:
        at_interruption[:] = at_interruption or [len(bot.ear.audio)]
        return guarded.running == 0

    await bot.run(
        TTSSpeakFrame(LONG),
        lambda: bool(bot.ear.audio) and guarded.running == 1,
        InterruptionFrame(),
        idle,
        TTSSpeakFrame(SENTENCE),
    )
    assert bot.errors == []
    started = [number for number, frame in enumerate(bot.ear.heard) if isinstance(frame, TTSStartedFrame)]
    assert len(started) == 2
    after = [frame.audio for frame in bot.ear.heard[started[1] :] if isinstance(frame, TTSAudioRawFrame)]
    assert_speaks(from_pcm(b"".join(after)), SENTENCE)
    assert "client_disconnect" in [line["outcome"] for line in guarded.requests()]
