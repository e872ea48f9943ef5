"""A request as the engine process takes it: nothing is left to a default, so that its worker decides nothing."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from engine.config import EngineConfig, SamplingParams
from engine.errors import GenerationFailed, InvalidRequest, QueueTimeout
from engine.messages import Failed, Finished, Generate, ModelInfo
from engine.stream import SpeechStream
from engine.text import TextChunk

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """An accepted request: what the engine process is told, and where its answer goes. `moved`: another one had it."""

    message: Generate
    stream: SpeechStream
    moved: bool = False

    def waited(self) -> Request:
        """The same for another engine process, as patient as it still is after the time that it has waited."""
        patience = self.message.patience
        left = None if patience is None else max(0.0, patience - self.stream.age)
        return Request(msgspec.structs.replace(self.message, patience=left), self.stream, moved=True)

    def end(self, message: Finished | Failed, patience: float, retry_after: float) -> None:
        """What the engine process said last of it; `patience` as it was set, `retry_after` for who ran out of it."""
        if isinstance(message, Failed) and message.param is not None:
            self.stream.fail(InvalidRequest(message.param, message.message))
        elif isinstance(message, Failed):
            self.stream.fail(GenerationFailed(message.message))
        elif message.reason == "expired":
            self.stream.fail(QueueTimeout(patience, retry_after), message.reason)
        else:
            self.stream.finish(message.reason, message.input_tokens, message.output_tokens)


def by_slot(requests: list[Request], slots: int, hung: bool) -> tuple[list[Request], list[Request]]:
    """Those of a lost process' requests, in order, that had a slot and may be the cause; and those that were queued.

    Of one that died, what it said last may be lost. One that hangs has had seconds to say who has a slot, and does so
    before it works on a prompt.
    """
    inside, queued = requests[:slots], requests[slots:]
    if hung:
        queued = [request for request in inside if request.stream.timings.started is None] + queued
        inside = [request for request in inside if request.stream.timings.started is not None]
    return inside, queued


def generate(
    request_id: int, chunks: list[TextChunk], voice: str, params: SamplingParams, info: ModelInfo, config: EngineConfig
) -> Generate:
    """The message: what was asked, else what the server is set to, else the checkpoint's default; a seed of its own."""
    defaults = info.defaults
    window = _final(config.repetition_window, defaults.repetition_window)
    return Generate(
        request_id=request_id,
        chunks=chunks,
        voice=voice,
        temperature=_final(params.temperature, defaults.temperature),
        top_p=_final(params.top_p, defaults.top_p),
        top_k=_final(params.top_k, defaults.top_k),
        repetition_penalty=_final(params.repetition_penalty, defaults.repetition_penalty),
        repetition_window=_final(params.repetition_window, window),
        seed=secrets.randbits(62) if params.seed is None else params.seed,
        max_tokens=params.max_tokens,
        patience=config.queue_timeout,
    )


def _final(asked: T | None, default: T) -> T:
    return default if asked is None else asked
