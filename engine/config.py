"""Frozen settings of the engine and of one request; every value is checked where it enters."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal

from engine.errors import ConfigError, InvalidRequest

DEMO_CHECKPOINT: Final = Path(__file__).resolve().parent.parent / "demo" / "checkpoint"
_DEVICE: Final = re.compile(r"auto|cpu(:0)?|cuda(:\d+)?")
_LISTED: Final = re.compile(r"(?P<cpu>cpu)|(cuda:)?(?P<index>\d+)")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
DTYPES: Final = ("auto", "float32", "bfloat16")
LOAD_FORMATS: Final = ("auto", "dummy")
QUANTIZATIONS: Final = ("none", "fp8")
KV_DTYPES: Final = ("auto", "fp8")
CODEC_DTYPES: Final = ("auto", "float32", "float16", "bfloat16")
CPU_KERNELS: Final = ("auto", "native", "torch")
GPU_KERNELS: Final = ("auto", "triton", "torch")
LOG_FORMATS: Final = ("plain", "json")
ATTENTIONS: Final = ("auto", "triton", "flash", "sdpa")

LEAST_SILENCE: Final = 1.0
"""Seconds. Shorter pauses are part of speech."""


@dataclass(frozen=True)
class EngineConfig:
    """How the engine loads and runs.

    `model` and `codec` are hub ids, local folders, or (with `load_format="dummy"`) names of known shapes.
    `model=None` takes the bundled demo voice; `codec=None` takes the codec that belongs to the model.
    `quantization`: fp8 keeps the layers' matrices in 8 bits (half of the memory and traffic of bfloat16).
    `kv_dtype`: fp8 keeps keys and values in 8 bits, so that twice as many streams or tokens fit.
    `codec_dtype` is the codec's arithmetic on a GPU: auto is float16 if that is not heard. On the CPU it is float32.
    `devices` is auto (every CUDA device) or a list such as "0,1": an engine process on each, and requests go to the
    least loaded. `max_concurrency` and `max_queue` are those of one device.
    `max_context` counts tokens a slot holds: prompt plus audio codes of one chunk of text.
    `attention` is the language model's: auto is triton on a GPU; flash needs flash-attn; sdpa, torch's own, is slow.
    `memory_share` of a GPU's memory may be used; slots that do not fit it are refused at the start.
    `batch_invariant`: on a GPU, too, a seed gives the same codes alone and in any batch, at some cost in speed.
    `trim_silence`: of the quiet before a chunk's first sound only 50 ms are sent. `max_silence`: a chunk in which the
    model is silent for so many seconds is ended; 0: none is. `loop_guard`: so is one in which it says nothing new.
    `cpu_threads` (default: all cores) share the codec's work. `cache` is the folder for compiled kernels (default:
    ~/.cache/lyre). `log_format`: json lets no line of an engine process reach standard error as it is: they are logged.
    `queue_timeout`: seconds that a request may wait for a slot. `hang_timeout`: seconds that an engine process with
    work may say nothing before it is killed and replaced (0: it never is); on a slow device at least three times what
    its warm synthesis took.
    """

    model: str | None = None
    codec: str | None = None
    revision: str | None = None
    codec_revision: str | None = None
    device: str = "auto"
    devices: str | None = None
    dtype: str = "auto"
    quantization: str = "none"
    kv_dtype: str = "auto"
    codec_dtype: str = "auto"
    load_format: str = "auto"
    max_concurrency: int = 16
    max_queue: int = 16
    max_context: int = 2560
    memory_share: float = 0.9
    repetition_window: int | None = None
    cpu_kernel: str = "auto"
    gpu_kernel: str = "auto"
    attention: str = "auto"
    batch_invariant: bool = False
    trim_silence: bool = True
    max_silence: float = 2.5
    loop_guard: bool = True
    cpu_threads: int | None = None
    cache: str | None = None
    queue_timeout: float = 5.0
    hang_timeout: float = 10.0
    max_restarts: int = 3
    log_format: Literal["plain", "json"] = "plain"

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError("device", f"{self.device!r} is not auto, cpu, cuda or cuda:N")
        if self.devices is not None and self.device != "auto":
            raise ConfigError("devices", "device and devices exclude each other")
        if self.devices not in (None, "auto") and self.device_names is None:
            raise ConfigError("devices", f"{self.devices!r} is not auto, nor a list of GPUs (0,1) or of CPUs (cpu,cpu)")
        _choice("dtype", self.dtype, DTYPES)
        _choice("quantization", self.quantization, QUANTIZATIONS)
        _choice("kv_dtype", self.kv_dtype, KV_DTYPES)
        _choice("codec_dtype", self.codec_dtype, CODEC_DTYPES)
        _choice("load_format", self.load_format, LOAD_FORMATS)
        _choice("cpu_kernel", self.cpu_kernel, CPU_KERNELS)
        _choice("gpu_kernel", self.gpu_kernel, GPU_KERNELS)
        _choice("attention", self.attention, ATTENTIONS)
        _choice("log_format", self.log_format, LOG_FORMATS)
        _at_least("max_concurrency", self.max_concurrency, 1)
        _at_least("max_queue", self.max_queue, 0)
        _at_least("max_context", self.max_context, 256)
        _at_least("max_restarts", self.max_restarts, 0)
        _seconds("queue_timeout", self.queue_timeout, 0.01, 600)
        _seconds("hang_timeout", self.hang_timeout or 1.0, 1.0, 3600)
        # These are written so that NaN fails them.
        if not 0 < self.memory_share <= 1:
            raise ConfigError("memory_share", f"{self.memory_share} is not a share of the memory: above 0, at most 1")
        if not (self.max_silence == 0 or LEAST_SILENCE <= self.max_silence <= 60):
            raise ConfigError("max_silence", f"{self.max_silence} is neither 0 nor {LEAST_SILENCE} to 60 seconds")
        if self.repetition_window is not None:
            _at_least("repetition_window", self.repetition_window, 1)
        if self.cpu_threads is not None:
            _at_least("cpu_threads", self.cpu_threads, 1)
        if self.load_format == "dummy" and self.model is None:
            raise ConfigError("model", "load_format 'dummy' needs the name of a shape, for example 'orpheus-3b'")

    @property
    def device_names(self) -> list[str] | None:
        """The list in `devices`, each a `device`; None where it names none, or CPUs beside CUDA devices."""
        listed = [_LISTED.fullmatch(name.strip()) for name in (self.devices or "").split(",")]
        names = ["cpu" if name["cpu"] else f"cuda:{int(name['index'])}" for name in listed if name]
        return names if len(names) == len(listed) and len({name == "cpu" for name in names}) == 1 else None

    @property
    def cache_folder(self) -> Path:
        """Where compiled kernels are kept."""
        return Path(self.cache).expanduser() if self.cache else Path.home() / ".cache" / "lyre"

    @property
    def is_demo(self) -> bool:
        """Whether this configuration runs the bundled demo voice."""
        return self.model is None


SAMPLING_LIMITS: Final[dict[str, tuple[float, float]]] = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-6, 1.0),
    "top_k": (0, 4097),
    "repetition_penalty": (0.1, 10.0),
    "repetition_window": (0, 1_000_000),
    "seed": (-(2**63), 2**63 - 1),
    "max_tokens": (1, 1_000_000),
}
"""The smallest and the largest value of each sampling parameter; of whole numbers where the smallest is one."""


@dataclass(frozen=True)
class SamplingParams:
    """How one request is sampled; `None` takes the checkpoint's default.

    `temperature=0` is greedy; `top_k=0` is off. `repetition_window` counts the latest audio codes that the
    repetition penalty looks at, 0 means all of them. `seed` makes the audio repeatable, alone or in any batch (on a
    GPU with `batch_invariant`).
    `max_tokens` caps the audio codes of the whole request (7 a frame of 85 ms; one frame is always spoken).
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    repetition_window: int | None = None
    seed: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = SAMPLING_LIMITS[field.name]
            if value is not None and isinstance(low, int) and not isinstance(value, int):
                raise InvalidRequest(field.name, f"{field.name} must be a whole number")
            # The comparison is written so that NaN fails it.
            if value is not None and not low <= value <= high:
                raise InvalidRequest(field.name, f"{field.name} must be between {low:g} and {high:g}")


def is_commit(revision: str | None) -> bool:
    """Whether a revision names one state of a repository for ever; branches and tags can be moved."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def _choice(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(field, f"{value!r} is not one of {', '.join(allowed)}")


def _at_least(field: str, value: int, low: int) -> None:
    if value < low:
        raise ConfigError(field, f"{value} is less than {low}")


def _seconds(field: str, value: float, low: float, high: float) -> None:
    # Written so that NaN fails it.
    if not low <= value <= high:
        raise ConfigError(field, f"{value} is not {low:g} to {high:g} seconds")
