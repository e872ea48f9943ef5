"""openai-agents' voice model: `instructions` is null, and pcm is read in pieces of 1,024 bytes."""

import pytest
from agents.voice import OpenAITTSModel, TTSModelSettings
from openai import AsyncOpenAI

from tests.clients.lyre_process import LyreProcess
from tests.clients.spoken import SENTENCE, assert_lasts, assert_speaks, from_pcm


@pytest.mark.parametrize(
    "settings", [TTSModelSettings(), TTSModelSettings(voice="coral", speed=1.0, instructions="Speak kindly.")]
)
async def test_speaks(server: LyreProcess, settings: TTSModelSettings) -> None:
    known = len(server.requests())
    async with AsyncOpenAI(base_url=server.base_url, api_key="none") as client:
        model = OpenAITTSModel("gpt-4o-mini-tts", client)
        sound = from_pcm(b"".join([part async for part in model.run(SENTENCE, settings)]))
    assert_speaks(sound, SENTENCE)
    assert_lasts(sound, server.next_line(known)["audio_s"])
