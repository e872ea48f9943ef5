"""What `import engine` gives, and what it must not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import engine
from engine import errors

SURFACE = [
    "CheckpointError",
    "ConfigError",
    "Engine",
    "EngineConfig",
    "EngineError",
    "EngineOverloaded",
    "EngineUnavailable",
    "GenerationFailed",
    "InvalidRequest",
    "ModelInfo",
    "Normaliser",
    "QueueTimeout",
    "SamplingParams",
    "SpeechStream",
]
ENGINE_MEMBERS = [
    "check_room",
    "config",
    "drain",
    "hung",
    "info",
    "places",
    "processes",
    "ready",
    "running",
    "slots",
    "start",
    "stop",
    "submit",
    "tally",
    "wait_failed",
    "waiting",
]
SUPPLY = ("begin", "feed", "finish", "fail")
STREAM_MEMBERS = [
    "age",
    "audio_seconds",
    "cancel",
    "finish_reason",
    "input_tokens",
    "output_tokens",
    "request_id",
    "timings",
]


def members(thing: object) -> list[str]:
    """Public names, without those of the engine's side of a stream."""
    return sorted(name for name in dir(thing) if not name.startswith("_") and name not in SUPPLY)


def test_the_public_surface() -> None:
    assert sorted(engine.__all__) == SURFACE
    assert all(hasattr(engine, name) for name in SURFACE)


def test_the_members_of_an_engine_and_of_a_stream() -> None:
    assert members(engine.Engine(engine.EngineConfig())) == ENGINE_MEMBERS
    assert members(engine.SpeechStream(1, lambda request_id: None)) == STREAM_MEMBERS


def test_every_error_is_an_engine_error_and_exported() -> None:
    tree = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(issubclass(error, engine.EngineError) for error in tree)
    assert {error.__name__ for error in tree} <= set(SURFACE)


@pytest.mark.parametrize("module", ["engine", "engine.scheduler", "engine.text", "engine.prompt", "engine.windows"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    heavy = ["torch", "transformers", "snac", "triton", "numpy", "litestar", "uvicorn", "pydantic", "huggingface_hub"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
