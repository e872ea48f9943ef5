"""LYRE_* variables and command-line flags become one frozen Settings. The only reader of the environment.

A name or a value that cannot be right stops the start, named as it was given: LYRE_PORT or --port.
pydantic-settings is not used: it ignores unknown variables of its prefix, and a typo must not pass in silence.
"""

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from engine import ConfigError, EngineConfig

PREFIX: Final = "LYRE_"
ENGINE_FIELDS: Final = tuple(field.name for field in fields(EngineConfig))

# Kubernetes puts these into every pod beside a Service called `lyre` or `lyre-...`; they are not settings.
_SERVICE_LINK: Final = re.compile(r"LYRE_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)\w*)")
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://")


# As browsers send it: never with a path, so that one more slash would match no page.
_ORIGIN: Final = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+")

KEY_RULE: Final = "a key must be printable ASCII without spaces"

# An empty variable is an unset one, but these would then open what somebody meant to close.
_NEVER_EMPTY: Final = {
    "api_keys": "unset it to run without keys",
    "api_keys_file": "unset it to run without keys",
    "cors_origins": "unset it to let every page call, or say none",
}

# As many streams of an Orpheus-3B in bf16 as should stay in real time; memory has room for more. The H200's number
# rests on its measured steps, the H100's is that one less what its slower memory takes: not measured.
PRESETS: Final[dict[str, dict[str, str]]] = {
    "h100": {"max_concurrency": "160", "max_queue": "40", "max_context": "2560"},
    "h200": {"max_concurrency": "256", "max_queue": "64", "max_context": "2560"},
}


class Settings(BaseModel):
    """All that can be set. Every field is LYRE_<NAME> in the environment and --<name> on the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")

    model: str | None = Field(EngineConfig.model, description="hub id or folder of the model; none: the demo voice")
    codec: str | None = Field(EngineConfig.codec, description="hub id or folder of the codec; none: the model's own")
    revision: str | None = Field(EngineConfig.revision, description="revision of the model on the hub")
    codec_revision: str | None = Field(EngineConfig.codec_revision, description="revision of the codec on the hub")
    device: str = Field(EngineConfig.device, description="auto, cpu, cuda or cuda:N")
    devices: str | None = Field(
        EngineConfig.devices, description="auto: every GPU, or a list as in 0,1: an engine on each; none: device alone"
    )
    dtype: str = Field(EngineConfig.dtype, description="auto, float32 or bfloat16")
    quantization: str = Field(EngineConfig.quantization, description="weights of the layers: none, or fp8: 8 bits")
    kv_dtype: str = Field(EngineConfig.kv_dtype, description="keys and values: auto (as dtype), or fp8: 8 bits")
    codec_dtype: str = Field(
        EngineConfig.codec_dtype, description="the codec on a GPU: auto, float32, float16 or bfloat16"
    )
    load_format: str = Field(EngineConfig.load_format, description="auto, or dummy: random weights of a known shape")
    max_concurrency: int = Field(
        EngineConfig.max_concurrency, description="requests that are spoken at once, on each device"
    )
    max_queue: int = Field(EngineConfig.max_queue, description="requests that may wait, for each device")
    max_context: int = Field(EngineConfig.max_context, description="tokens a slot holds, prompt and audio")
    memory_share: float = Field(EngineConfig.memory_share, description="share of a GPU's memory that may be used")
    preset: Literal["none", "h100", "h200"] = Field(
        "none", description="none, h100 or h200: concurrency, queue and context for that card, where they are not set"
    )
    repetition_window: int | None = Field(
        EngineConfig.repetition_window, description="audio codes that the repetition penalty looks back on"
    )
    cpu_kernel: str = Field(EngineConfig.cpu_kernel, description="auto, native or torch")
    gpu_kernel: str = Field(EngineConfig.gpu_kernel, description="auto, triton or torch")
    attention: str = Field(EngineConfig.attention, description="auto, triton, flash (needs flash-attn) or sdpa (slow)")
    batch_invariant: bool = Field(
        EngineConfig.batch_invariant, description="on a GPU: a seed gives the same audio in any batch; slower"
    )
    trim_silence: bool = Field(
        EngineConfig.trim_silence, description="on or off: silence before the first sound is cut to 50 ms"
    )
    max_silence: float = Field(
        EngineConfig.max_silence, description="seconds of silence after which a piece of text is given up; 0: never"
    )
    loop_guard: bool = Field(
        EngineConfig.loop_guard, description="on or off: a piece of text in which the model goes in circles is ended"
    )
    cpu_threads: int | None = Field(EngineConfig.cpu_threads, description="threads of the CPU path")
    cache: str | None = Field(EngineConfig.cache, description="folder of compiled kernels; none: ~/.cache/lyre")
    queue_timeout: float = Field(EngineConfig.queue_timeout, description="seconds that a request may wait for a slot")
    hang_timeout: float = Field(
        EngineConfig.hang_timeout,
        description="seconds until an engine that works and says nothing is replaced; 0: never",
    )
    max_restarts: int = Field(
        EngineConfig.max_restarts,
        description="deaths of the engine in a row that are made up for; then the server ends",
    )

    api_keys: tuple[str, ...] = Field((), repr=False, description="accepted keys, separated by commas")
    api_keys_file: Path | None = Field(None, description="file of accepted keys, one a line; may change")
    open_lists: bool = Field(True, description="whether models and voices are listed without a key")
    requests_per_minute: int = Field(0, ge=0, description="speech requests a minute per key or address; 0: any")
    requests_at_once: int = Field(0, ge=0, description="speech requests at once per key or address; 0: any")
    max_open: int | None = Field(
        None,
        ge=1,
        description="answers open at once, spoken or still being read; none: twice slots and queue, at least 32",
    )
    voices: dict[str, str] = Field({}, description="names for the model's voices: alloy=tara,... or a .json file")
    playground: bool = Field(True, description="on or off: the page at /")
    cors_origins: tuple[str, ...] = Field(("*",), description="web origins that may call, or none")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning, error")
    log_format: Literal["plain", "json"] = Field(
        EngineConfig.log_format, description="of all lines but those of requests, which are JSON: plain or json"
    )
    metrics: bool = Field(True, description="on or off: /metrics for Prometheus, open to everybody who reaches it")
    metrics_port: int | None = Field(None, ge=0, le=65535, description="port of its own for it; none: the server's")
    tracing: bool = Field(False, description="on or off: OpenTelemetry traces, sent as the OTEL_* variables say")
    drain_seconds: float = Field(30, ge=0, le=3600, description="time that running requests get when the server ends")
    first_chunk_timeout: float = Field(25, gt=0, le=600, description="seconds a request may wait for its first audio")
    header_timeout: float = Field(
        20, gt=0, le=600, description="seconds from a request's first byte to its head's last"
    )
    body_timeout: float = Field(20, gt=0, le=600, description="seconds that a request's body may take")
    max_connections: int = Field(
        4096, ge=1, le=65536, description="connections at once; for one more, the longest idle one is closed"
    )
    send_timeout: float = Field(30, gt=0, le=600, description="seconds a client may stop reading")

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = tuple(part.strip() for part in value.split(",") if part.strip())
        if value and not parts:
            # As a template leaves it whose own variables are unset.
            raise ValueError("is set but holds nothing between its commas")
        return parts

    @field_validator("api_keys")
    @classmethod
    def _printable(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(is_key, keys)):
            raise ValueError(KEY_RULE)
        return keys

    @field_validator("cors_origins")
    @classmethod
    def _comparable(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if origins == ("none",):
            return ()
        origins = tuple(origin.lower() for origin in origins)
        if wrong := [origin for origin in origins if not _ORIGIN.fullmatch(origin)]:
            raise ValueError(f"{wrong[0]!r} is no origin: scheme://host or scheme://host:port, without a path")
        return origins

    @field_validator("voices", mode="before")
    @classmethod
    def _voice_names(cls, value: Any) -> Any:
        return voice_names(value) if isinstance(value, str) else value

    def engine_config(self) -> EngineConfig:
        """The engine's part; raises ConfigError."""
        return EngineConfig(**{name: getattr(self, name) for name in ENGINE_FIELDS})


def load_settings(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment and, stronger, from `flags` (field name -> value; None: not given).

    Weaker than both is the preset that they name. Raises ConfigError whose `field` is the variable or flag at fault.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    chosen = {**_from_environ(os.environ if environ is None else environ), **given}
    values = {**PRESETS.get(chosen.get("preset", "none"), {}), **chosen}

    def origin(name: str) -> str:
        return "--" + name.replace("_", "-") if name in given else PREFIX + name.upper()

    try:
        settings = Settings(**values)
        settings.engine_config()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(origin(str(first["loc"][0])), first["msg"].removeprefix("Value error, ")) from None
    except ConfigError as error:
        raise ConfigError(origin(error.field), error.message) from None
    return settings


def is_key(key: str) -> bool:
    """Whether every client can send this key in a header."""
    return key.isascii() and key.isprintable() and " " not in key


def voice_names(value: str) -> dict[str, str]:
    """`name=voice` pairs, or the path of a .json file that holds such an object, the names in lower case.

    Raises ValueError.
    """
    if value.endswith(".json"):
        try:
            pairs = json.loads(Path(value).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{value}: {error.strerror}") from None
        if not isinstance(pairs, dict) or not all(isinstance(voice, str) for voice in pairs.values()):
            raise ValueError(f"{value} must hold one object of names and voices")
        listed = list(pairs.items())
    else:
        listed = [
            (name, voice) for name, _, voice in (pair.partition("=") for pair in value.split(",") if pair.strip())
        ]
    named = {name.strip().lower(): voice.strip() for name, voice in listed}
    if not all(named) or not all(named.values()):
        raise ValueError("must be pairs of a name and a voice, as in alloy=tara,echo=leo")
    if len(named) < len(listed):
        raise ValueError("gives one name two voices")
    return named


def _from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    values: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or _is_service_link(variable, value):
            continue
        if variable not in known:
            nearest = difflib.get_close_matches(variable, known, n=1)
            raise ConfigError(variable, "no such setting" + (f"; did you mean {nearest[0]}?" if nearest else ""))
        if value.strip():
            values[known[variable]] = value.strip()
        elif known[variable] in _NEVER_EMPTY:
            raise ConfigError(variable, f"is set but empty; {_NEVER_EMPTY[known[variable]]}")
    return values


def _is_service_link(variable: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(variable):
        return True
    return variable.endswith("_PORT") and _SERVICE_URL.match(value) is not None
