"""Text in, PCM chunks out: the engine's public surface. Importing it loads no torch."""

from engine.config import EngineConfig, SamplingParams
from engine.engine import Engine
from engine.errors import (
    CheckpointError,
    ConfigError,
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    GenerationFailed,
    InvalidRequest,
    QueueTimeout,
)
from engine.messages import ModelInfo
from engine.stream import SpeechStream
from engine.text import Normaliser

__all__ = [
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
