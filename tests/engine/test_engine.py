"""The engine end to end: a real worker process, a tiny voice, requests that come, go and crowd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from engine import (
    Engine,
    EngineConfig,
    EngineOverloaded,
    EngineUnavailable,
    InvalidRequest,
    SamplingParams,
)
from tests.engine.engines import LONG, SHORT, heard, until

pytestmark = pytest.mark.anyio

FRAME_BYTES = 4096


class Shared:
    """One engine for all tests of this file. A test that harms it fails alone: the next one gets a new engine."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._engine: Engine | None = None
        self.steps: list[tuple[str, float]] = []

    async def engine(self) -> Engine:
        if self._engine is None or not self._engine.ready or self._engine.running:
            await self.stop()
            self.steps.clear()
            self._engine = Engine(self._config)
            await self._engine.start(lambda stage, done: self.steps.append((stage, done)))
        return self._engine

    async def stop(self) -> None:
        if self._engine is not None:
            await self._engine.stop()


@pytest.fixture(scope="module")
async def shared(engine_config: Callable[..., EngineConfig]) -> AsyncIterator[Shared]:
    holder = Shared(engine_config())
    yield holder
    await holder.stop()


@pytest.fixture
async def engine(shared: Shared) -> AsyncIterator[Engine]:
    """The shared engine; idle before and after each test."""
    engine = await shared.engine()
    yield engine
    await at_rest(engine)


async def at_rest(engine: Engine) -> None:
    await until(lambda: not engine.running)


# ---- starting


async def test_a_started_engine_is_ready_and_knows_its_model(engine: Engine, shared: Shared) -> None:
    assert engine.ready
    assert (engine.info.kernel, engine.info.slots, engine.info.voices) == ("native", 2, ["ana", "ben"])
    assert (engine.running, engine.waiting) == (0, 0)
    done = [share for _, share in shared.steps]
    assert done == sorted(done)
    assert len(done) > 3


async def test_before_the_start_nothing_is_taken(engine_config: Callable[..., EngineConfig]) -> None:
    engine = Engine(engine_config())
    assert not engine.ready
    with pytest.raises(EngineUnavailable):
        engine.submit("Hello.", "ana")
    with pytest.raises(EngineUnavailable):
        _ = engine.info
    await engine.stop()


# ---- one request


async def test_speech_comes_in_whole_samples_and_whole_frames(engine: Engine) -> None:
    stream = engine.submit("Hello there.", "ana", SHORT)
    pieces = [piece async for piece in stream]
    assert len(pieces) > 2
    assert all(len(piece) % 2 == 0 and piece for piece in pieces)
    assert sum(map(len, pieces)) == 6 * FRAME_BYTES
    assert (stream.finish_reason, stream.output_tokens) == ("length", 42)
    assert stream.input_tokens == len("ana: Hello there.") + 6
    assert stream.audio_seconds == pytest.approx(6 * 2048 / 24_000)


async def test_the_checkpoints_defaults_apply_where_a_request_says_nothing(engine: Engine) -> None:
    defaults = engine.info.defaults
    asked = SamplingParams(temperature=defaults.temperature, top_p=defaults.top_p, seed=1, max_tokens=42)
    assert await heard(engine.submit("Hi.", "ana", SHORT)) == await heard(engine.submit("Hi.", "ana", asked))
    other = SamplingParams(temperature=1.9, top_p=1.0, seed=1, max_tokens=42)
    assert await heard(engine.submit("Hi.", "ana", SHORT)) != await heard(engine.submit("Hi.", "ana", other))


async def test_requests_without_a_seed_differ(engine: Engine) -> None:
    params = SamplingParams(max_tokens=42)
    first, second = engine.submit("Hi.", "ana", params), engine.submit("Hi.", "ana", params)
    assert await heard(first) != await heard(second)


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
async def test_any_seed_is_spoken(engine: Engine, seed: int) -> None:
    params = SamplingParams(seed=seed, max_tokens=42)
    assert len(await heard(engine.submit("Seeds.", "ana", params))) == 6 * FRAME_BYTES


# ---- what is refused


async def test_an_unknown_voice_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match=r"nobody.*ana, ben") as caught:
        engine.submit("Hello.", "nobody")
    assert caught.value.param == "voice"


@pytest.mark.parametrize("text", ["", "  \n"])
async def test_a_blank_text_is_refused(engine: Engine, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine.submit(text, "ana")
    assert caught.value.param == "input"
    assert engine.running == 0


@pytest.mark.parametrize("text", ["...", "!!!", "🙂👩‍👩‍👧", "<custom_token_3>", "<|eot_id|> ?", "<foo>", "&nbsp;"])
async def test_a_text_without_a_word_is_a_moment_of_silence(engine: Engine, text: str) -> None:
    stream = engine.submit(text, "ana")
    assert engine.running == 0, "silence takes no slot"
    assert await heard(stream) == bytes(2 * 7_200)
    usage = (stream.input_tokens, stream.output_tokens, stream.finish_reason, stream.audio_seconds)
    assert usage == (0, 0, "stop", 0.3)


HOSTILE = {
    "control tokens": "Say <custom_token_3> and <|eot_id|> now.",
    "nul": "a\0b",
    "emoji": "🙂👩‍👩‍👧",
    "surrogates": "lone \ud83d surrogate",
    "long": "word " * 819,
    "one word": "x" * 4096,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
async def test_any_text_is_heard_and_so_is_the_next_one(engine: Engine, text: str) -> None:
    assert len(await heard(engine.submit(text, "ana", SHORT))) in (6 * FRAME_BYTES, 2 * 7_200)
    assert engine.running == 0, "a refused request must not keep its place"
    assert len(await heard(engine.submit("And on.", "ana", SHORT))) == 6 * FRAME_BYTES


# ---- many requests


async def test_the_same_seed_gives_the_same_audio_alone_and_in_company(engine: Engine) -> None:
    params = SamplingParams(seed=77, max_tokens=140)
    alone = await heard(engine.submit("The same.", "ben", params))
    other = engine.submit("Another one before it.", "ana", SamplingParams(seed=1, max_tokens=70))
    same, queued = engine.submit("The same.", "ben", params), engine.submit("The same.", "ben", params)
    company = await asyncio.gather(heard(same), heard(other), heard(queued))
    assert company[0] == company[2] == alone


async def test_when_slots_and_queue_are_full_a_request_is_refused_at_once(engine: Engine) -> None:
    streams = [engine.submit(LONG, "ana") for _ in range(4)]
    assert (engine.running, engine.waiting) == (2, 2)
    with pytest.raises(EngineOverloaded) as caught:
        engine.submit("One too many.", "ana")
    assert 1.0 <= caught.value.retry_after <= 30.0
    for stream in streams:
        stream.cancel()
    await at_rest(engine)
    assert len(await heard(engine.submit("Room again.", "ana", SHORT))) == 6 * FRAME_BYTES


async def test_a_cancelled_stream_ends_and_frees_its_slot_for_the_next_in_line(engine: Engine) -> None:
    first, second, third = (engine.submit(LONG, "ana") for _ in range(3))
    await anext(first)
    await anext(second)
    first.cancel()
    assert await anext(third)
    assert second.finish_reason is None
    rest = await heard(first)
    assert len(rest) % 2 == 0
    assert first.finish_reason == "cancelled"
    first.cancel()
    second.cancel()
    third.cancel()


async def test_a_request_can_be_cancelled_while_it_waits(engine: Engine) -> None:
    streams = [engine.submit(LONG, "ana") for _ in range(4)]
    streams[3].cancel()
    assert await heard(streams[3]) == b""
    while engine.waiting == 2:
        await asyncio.sleep(0.01)
    assert (engine.running, engine.waiting) == (2, 1)
    for stream in streams[:3]:
        stream.cancel()


async def test_a_finished_stream_can_be_cancelled(engine: Engine) -> None:
    stream = engine.submit("Hi.", "ana", SHORT)
    await heard(stream)
    stream.cancel()
    assert stream.finish_reason == "length"
    assert len(await heard(engine.submit("Hi.", "ana", SHORT))) == 6 * FRAME_BYTES


async def test_a_slow_reader_does_not_hold_its_slot(engine: Engine) -> None:
    unread = engine.submit("Nobody listens yet.", "ana", SHORT)
    await until(lambda: not engine.running)
    assert unread.finish_reason == "length"
    assert len(await heard(unread)) == 6 * FRAME_BYTES


async def test_a_crowd_is_served_completely(engine: Engine) -> None:
    async def client(number: int) -> int:
        params = SamplingParams(seed=number, max_tokens=7 * (number + 1))
        while True:
            try:
                stream = engine.submit(f"Number {number}.", "ana", params)
            except EngineOverloaded:
                await asyncio.sleep(0.02)
                continue
            assert len(await heard(stream)) == stream.output_tokens // 7 * FRAME_BYTES
            assert stream.finish_reason in ("stop", "length")
            return stream.output_tokens

    spoken = await asyncio.gather(*(client(number) for number in range(16)))
    assert all(0 < tokens <= 7 * (number + 1) for number, tokens in enumerate(spoken))
    assert sum(spoken) > 400
