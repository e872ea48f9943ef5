"""Messages arrive as they were sent, and as what they were sent."""

from __future__ import annotations

import msgspec
import pytest

from engine.messages import (
    Audio,
    Broken,
    Cancel,
    Failed,
    Finished,
    FromEngine,
    Generate,
    Loading,
    ModelInfo,
    Ready,
    SamplingDefaults,
    Started,
    Stepped,
    Stop,
    ToEngine,
)
from engine.text import TextChunk

INFO = ModelInfo(
    model="m",
    codec="c",
    demo=False,
    voices=["ana"],
    defaults=SamplingDefaults(0.6, 0.9, 0, 1.1, 0),
    sample_rate=24_000,
    device="cpu",
    dtype="float32",
    kernel="native",
    attention="native",
    slots=16,
    max_context=2560,
    parameters=10**10,
    load_seconds=0.5,
)
TO_ENGINE = [
    Generate(1, [TextChunk("Hällo", 0.45), TextChunk("你好\x00🙂", 0.0)], "ana", 0.6, 0.9, 0, 1.1, 0, -(2**63), None),
    Generate(2**40, [], "ana", 0.0, 1.0, 4097, 0.1, 10**6, 2**63 - 1, 7),
    Cancel(3),
    Stop(),
]
FROM_ENGINE = [
    Loading("weights", 0.5),
    Ready(INFO),
    Broken("ConfigError", "device: no", "device"),
    Broken("CheckpointError", "no"),
    Started(1),
    Stepped(16, 0.0125),
    Audio(1, bytes(range(256)), 7),
    Finished(1, "stop", 10, 70),
    Failed(1, "too long", "input"),
    Failed(1, "broke"),
]


@pytest.mark.parametrize("message", TO_ENGINE, ids=lambda message: type(message).__name__)
def test_to_the_engine(message: ToEngine) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=ToEngine) == message


@pytest.mark.parametrize("message", FROM_ENGINE, ids=lambda message: type(message).__name__)
def test_from_the_engine(message: FromEngine) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=FromEngine) == message


def test_the_directions_do_not_mix() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(Stop()), type=FromEngine)
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(Loading("x", 0.0)), type=ToEngine)
