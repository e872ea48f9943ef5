"""A request as the engine process takes it: nothing is left to a default, so that its worker decides nothing."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from engine.config import EngineConfig, SamplingParams
from engine.messages import Generate, ModelInfo
from engine.stream import SpeechStream
from engine.text import TextChunk

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """An accepted request: what the engine process is told, and where its answer goes."""

    message: Generate
    stream: SpeechStream

    def waited(self) -> Request:
        """The same for another engine process, as patient as it still is after the time that it has waited."""
        patience = self.message.patience
        if patience is None:
            return self
        left = max(0.0, patience - self.stream.age)
        return Request(msgspec.structs.replace(self.message, patience=left), self.stream)


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
