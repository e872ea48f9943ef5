"""What can go wrong in the engine, as one tree.

EngineError
├── ConfigError         a setting that cannot work; carries the field's name
├── CheckpointError     a model or codec file is missing, unreadable or of the wrong shape
├── InvalidRequest      the request itself is wrong; carries the parameter's name
├── EngineOverloaded    every slot and queue place is taken; carries the seconds to wait
├── QueueTimeout        the request waited too long for a slot; carries the seconds to wait
├── EngineUnavailable   the engine is starting, stopping or dead; carries the seconds to wait
└── GenerationFailed    the request was accepted and then broke; its audio is incomplete
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of all errors that the engine raises on purpose."""


class ConfigError(EngineError):
    """A setting that cannot work."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class CheckpointError(EngineError):
    """A model or codec file is missing, unreadable or of the wrong shape; the message names the file and the fix."""


class InvalidRequest(EngineError):
    """The request itself is wrong; `param` is the name of the offending parameter."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param
        self.message = message


class EngineOverloaded(EngineError):
    """Every slot and every place of the queue is taken."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("all slots and queue places are taken")
        self.retry_after = retry_after


class QueueTimeout(EngineError):
    """The request waited for a slot for as long as the settings allow; nothing was generated for it."""

    def __init__(self, seconds: float, retry_after: float) -> None:
        super().__init__(f"no slot came free within {seconds:g} s")
        self.retry_after = retry_after


class EngineUnavailable(EngineError):
    """The engine cannot take requests now: it is starting, draining, stopped or dead."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class GenerationFailed(EngineError):
    """An accepted request broke in the engine; whatever audio was sent is incomplete."""
