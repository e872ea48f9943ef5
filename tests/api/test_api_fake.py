"""The fake engine keeps the shape of the real one, or the other tests prove nothing."""

import inspect

import pytest

from engine import Engine, EngineConfig, SamplingParams, SpeechStream
from tests.api.fake_engine import FakeEngine, FakeStream


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_the_engine_has_every_method() -> None:
    assert public(Engine) <= public(FakeEngine) | set(vars(FakeEngine()))


@pytest.mark.parametrize("name", ["start", "submit", "drain", "stop", "wait_failed"])
def test_the_methods_take_the_same_arguments(name: str) -> None:
    real, fake = (inspect.signature(getattr(kind, name)).parameters for kind in (Engine, FakeEngine))
    assert list(real) == list(fake)
    assert inspect.iscoroutinefunction(getattr(Engine, name)) == inspect.iscoroutinefunction(getattr(FakeEngine, name))


def test_the_stream_has_what_the_server_reads() -> None:
    real = SpeechStream(1, lambda request_id: None)
    for name in ("request_id", "finish_reason", "input_tokens", "output_tokens", "audio_seconds", "timings"):
        assert hasattr(real, name)
    assert isinstance(FakeStream(FakeEngine(), 1, "", "tara", SamplingParams()).timings, type(real.timings))
    assert {"cancel", "__aiter__"} <= set(vars(FakeStream)) & set(vars(SpeechStream))


def test_the_real_engine_is_made_without_a_model() -> None:
    engine = Engine(EngineConfig())
    assert (engine.ready, engine.running, engine.waiting) == (False, 0, 0)
