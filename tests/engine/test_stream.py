"""SpeechStream: pieces in order, one end, and figures that are final when it has come."""

from __future__ import annotations

import asyncio

import pytest

from engine import GenerationFailed, SpeechStream

pytestmark = pytest.mark.anyio


@pytest.fixture
def cancelled() -> list[int]:
    """Requests that a stream asked to cancel."""
    return []


@pytest.fixture
def stream(cancelled: list[int]) -> SpeechStream:
    return SpeechStream(7, cancelled.append)


async def test_pieces_come_in_order_and_the_figures_add_up(stream: SpeechStream) -> None:
    stream.feed(b"\0\1" * 2400, 7)
    stream.feed(b"\2\3" * 2400, 14)
    stream.finish("stop", 9, 14)
    assert [piece async for piece in stream] == [b"\0\1" * 2400, b"\2\3" * 2400]
    assert (stream.finish_reason, stream.input_tokens, stream.output_tokens) == ("stop", 9, 14)
    assert stream.audio_seconds == pytest.approx(0.2)


async def test_the_end_stays_the_end(stream: SpeechStream) -> None:
    stream.finish("stop", 1, 0)
    for _ in range(3):
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_failure_comes_after_the_audio_before_it_and_stays(stream: SpeechStream) -> None:
    stream.feed(b"ab", 7)
    stream.fail(GenerationFailed("the worker died"))
    assert await anext(stream) == b"ab"
    for _ in range(3):
        with pytest.raises(GenerationFailed, match="the worker died"):
            await anext(stream)


async def test_cancel_tells_the_engine_once_and_ends_the_iteration(stream: SpeechStream, cancelled: list[int]) -> None:
    stream.feed(b"ab", 7)
    stream.cancel()
    stream.cancel()
    stream.feed(b"cd", 14)
    stream.finish("cancelled", 5, 14)
    stream.fail(GenerationFailed("late"))
    assert [piece async for piece in stream] == [b"ab"]
    assert cancelled == [7]
    assert stream.finish_reason == "cancelled"


async def test_cancel_after_the_end_does_nothing(stream: SpeechStream, cancelled: list[int]) -> None:
    stream.finish("length", 5, 70)
    stream.cancel()
    assert cancelled == []
    assert stream.finish_reason == "length"
    assert [piece async for piece in stream] == []


async def test_only_the_first_end_counts(stream: SpeechStream) -> None:
    stream.finish("stop", 1, 7)
    stream.finish("length", 2, 14)
    stream.fail(GenerationFailed("late"))
    assert [piece async for piece in stream] == []
    assert (stream.finish_reason, stream.output_tokens) == ("stop", 7)


async def test_a_reader_is_woken_by_a_piece_and_by_the_end(stream: SpeechStream) -> None:
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    assert not waiting.done()
    stream.feed(b"ab", 7)
    stream.feed(b"cd", 14)
    assert await waiting == b"ab"
    assert await anext(stream) == b"cd"
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    stream.finish("stop", 1, 14)
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_a_reader_that_gives_up_waiting_loses_nothing(stream: SpeechStream) -> None:
    for late in (False, True):
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        if late:
            # It comes in the same turn of the loop.
            stream.feed(b"ab", 7)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    stream.feed(b"cd", 14)
    stream.finish("stop", 1, 14)
    assert [piece async for piece in stream] == [b"ab", b"cd"]


async def test_a_second_reader_is_refused_and_the_first_goes_on(stream: SpeechStream) -> None:
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="two readers"):
        await anext(stream)
    stream.feed(b"ab", 7)
    assert await first == b"ab"
