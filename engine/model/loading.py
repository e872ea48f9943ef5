"""From the settings to what runs: the device, the checkpoint, its weights, and which code each model runs in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.config import DEMO_CHECKPOINT, EngineConfig
from engine.errors import CheckpointError, ConfigError
from engine.model import checkpoint as ckpt
from engine.model.checkpoint import Checkpoint
from engine.model.gpu_codec import gpu_codec
from engine.model.kernels.build import BuildError
from engine.model.llama import TorchLlama
from engine.model.memory import Card, Slot, check_room, codec_bytes, slot_bytes
from engine.model.native import NativeLlama, supports
from engine.model.native_snac import NativeSnac
from engine.model.native_snac import supports as supports_codec
from engine.model.snac import TorchSnac
from engine.model.snac_layers import SnacLayer, codebook_tables, snac_layers
from engine.model.weights import LlamaShape, LlamaWeights, load_weights, random_weights, stored_dtype

Progress = Callable[[str, float], None]


def device_of(name: str) -> torch.device:
    """auto, cpu, cuda or cuda:N. ConfigError when it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device", "no CUDA device is available here; use cpu or auto")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError("device", f"{name} does not exist; there are {torch.cuda.device_count()} CUDA devices")
    return torch.device("cpu") if device.type == "cpu" else device


def device_name(device: torch.device) -> str:
    """As its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def dtype_name(config: EngineConfig, weights: LlamaWeights) -> str:
    """The arithmetic, and what is kept in 8 bits."""
    small = (["weights"] if config.quantization == "fp8" else []) + (["cache"] if config.kv_dtype == "fp8" else [])
    return str(weights.embed.dtype).removeprefix("torch.") + (f", fp8 {' and '.join(small)}" if small else "")


def open_model(config: EngineConfig) -> Checkpoint:
    """The named checkpoint, the demo voice, or a known shape without weights. CheckpointError."""
    if config.load_format == "dummy":
        assert config.model is not None
        return ckpt.dummy_checkpoint(config.model)
    if config.model is None and not (DEMO_CHECKPOINT / "lm").is_dir():
        raise CheckpointError(f"the bundled demo voice is not at {DEMO_CHECKPOINT}; set a model")
    return ckpt.open_checkpoint(config.model or str(DEMO_CHECKPOINT / "lm"), config.revision)


def weights_of(checkpoint: Checkpoint, device: torch.device, config: EngineConfig, progress: Progress) -> LlamaWeights:
    """In the asked or the stored arithmetic; random ones for a shape without weights."""
    shape, layout, fp8 = checkpoint.shape, checkpoint.layout, config.quantization == "fp8"
    asked = None if config.dtype == "auto" else getattr(torch, config.dtype)

    def layer(done: float) -> None:
        progress(f"weights: {round(done * shape.layers)} of {shape.layers}", 0.1 + 0.5 * done)

    with fitting(device):
        if checkpoint.folder is None:
            return random_weights(shape, layout, device, asked or torch.bfloat16, seed=0, fp8=fp8)
        if asked is None:
            asked = torch.bfloat16 if device.type == "cuda" else stored_dtype(checkpoint.folder)
        return load_weights(checkpoint.folder, shape, layout, device, asked, layer, fp8)


def models_of(
    config: EngineConfig, checkpoint: Checkpoint, weights: LlamaWeights, device: torch.device, context: int,
    progress: Progress,
) -> tuple[Any, Any, tuple[str, str | None]]:  # fmt: skip
    """Both models, in compiled CPU kernels where they fit, else in torch; the codec's name and commit."""
    progress("codec", 0.6)
    slots, threads = config.max_concurrency, config.cpu_threads or os.cpu_count() or 1
    codec, name = codec_of(config)
    tables, layers = codebook_tables(codec), snac_layers(codec, name[0])
    shape, layout, cache = checkpoint.shape, checkpoint.layout, config.cache_folder
    reason = _no_native(config, device, supports(shape, weights) and supports_codec(layers))
    if reason is None:
        try:
            native = NativeLlama(shape, weights.to(weights.embed.dtype), layout, slots, context, cache, threads)
            return native, NativeSnac(layers, tables, slots, cache, threads), name
        except BuildError as error:
            reason = str(error)
    if config.cpu_kernel == "native":
        raise ConfigError("cpu_kernel", f"the native kernel cannot be used: {reason}")
    if device.type == "cuda":
        with fitting(device):
            return *_on_card(config, checkpoint, weights, layers, tables, context, progress), name
    _graphs(config, shape, device)  # says what only a GPU can do
    llama = TorchLlama(shape, weights.to(torch.float32), layout, slots, context, kept_dtype(config, torch.float32))
    return llama, TorchSnac(layers, tables, slots, device, torch.float32), name


def _on_card(
    config: EngineConfig, checkpoint: Checkpoint, weights: LlamaWeights, layers: list[SnacLayer],
    tables: list[Tensor], context: int, progress: Progress,
) -> tuple[Any, Any]:  # fmt: skip
    """The language model and the codec on CUDA, after a look at whether their slots fit."""
    slots, device = config.max_concurrency, weights.embed.device
    shape, layout = checkpoint.shape, checkpoint.layout
    graphs = _graphs(config, shape, device)
    if not graphs:
        weights = weights.to(weights.embed.dtype)  # the numbers of quantised weights, not their speed
    kv_dtype = kept_dtype(config, weights.embed.dtype)
    # "auto" may come to float32.
    kept = getattr(torch, config.codec_dtype) if config.codec_dtype != "auto" else torch.float32
    slot = Slot(slot_bytes(shape, 1, kv_dtype), context, codec_bytes(layers, kept))
    progress(check_room(slots, slot, _card(device, config.memory_share)), 0.65)
    if config.gpu_kernel != "torch":
        keep_kernels(config.cache_folder)
        decoder = gpu_codec(layers, tables, slots, device, config.codec_dtype, counted(progress, "codec", 0.65, 0.75))
    else:
        decoder = TorchSnac(layers, tables, slots, device, torch.float32)
    if graphs:
        invariant, attention = config.batch_invariant, config.attention
        return graphs(shape, weights, layout, slots, context, invariant, attention, kv_dtype), decoder
    return TorchLlama(shape, weights, layout, slots, context, kv_dtype), decoder


def counted(progress: Progress, what: str, first: float, last: float) -> Callable[[int, int], None]:
    """Tells `progress` of graphs that are captured one after another."""
    return lambda done, of: progress(f"{what}'s graphs: {done} of {of}", first + (last - first) * done / of)


def keep_kernels(cache: Path) -> None:
    """Triton's compiled kernels go beside the others, so that the next start finds them. ConfigError when they cannot.

    TRITON_CACHE_DIR wins.
    """
    folder = Path(os.environ.setdefault("TRITON_CACHE_DIR", str(cache / "triton")))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("cache", f"{folder} cannot be used: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError("cache", f"{folder} cannot be written")


@contextmanager
def fitting(device: torch.device) -> Iterator[None]:
    """A device that is full is a ConfigError about it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        free, total = (f"{size / 2**30:.1f}" for size in torch.cuda.mem_get_info(device))
        reason = f"{device_name(device)} is full ({free} of {total} GiB free); free it, or choose another device"
        raise ConfigError("device", reason) from error


def _card(device: torch.device, share: float) -> Card:
    # What loading took for a moment only counts as free.
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return Card(device_name(device), total, free, torch.cuda.memory_allocated(device), share)


def kept_dtype(config: EngineConfig, arithmetic: torch.dtype) -> torch.dtype:
    """What keys and values are kept as."""
    return torch.float8_e4m3fn if config.kv_dtype == "fp8" else arithmetic


def _graphs(config: EngineConfig, shape: LlamaShape, device: torch.device) -> Any:
    """The model of Triton kernels and CUDA graphs where it can run, else None."""
    reason = "the device is not a GPU" if device.type != "cuda" else _no_triton(config, shape)
    if reason is None:
        _check_fp8(config, device)
        from engine.model.graphs import GraphLlama

        return GraphLlama
    if config.gpu_kernel == "triton" and device.type == "cuda":
        raise ConfigError("gpu_kernel", f"the Triton kernels cannot be used: {reason}")
    if config.attention in ("triton", "flash"):
        raise ConfigError("attention", f"{config.attention} attends within the Triton kernels' graphs: {reason}")
    return None


def _check_fp8(config: EngineConfig, device: torch.device) -> None:
    """ConfigError when the kernels would need numbers of 8 bits that the device has not."""
    asked = [name for name in ("quantization", "kv_dtype") if getattr(config, name) == "fp8"]
    if asked and torch.cuda.get_device_capability(device) < (8, 9):
        raise ConfigError(
            asked[0],
            f"{device_name(device)} has no fp8: it needs a GPU of compute capability 8.9 (Ada, Hopper) or more",
        )


def _no_triton(config: EngineConfig, shape: LlamaShape) -> str | None:
    """Why the Triton kernels are not to be used, or None."""
    if config.gpu_kernel == "torch":
        return "gpu_kernel is torch"
    if find_spec("triton") is None:
        return "triton is not installed"
    # Here, because Triton is not on every machine.
    from engine.model.graphs import supports as fits

    return None if fits(shape) else "the model's heads do not fit their blocks"


def _no_native(config: EngineConfig, device: torch.device, fits: bool) -> str | None:
    """Why the CPU kernels are not to be used, or None."""
    if device.type != "cpu":
        return "the device is not the CPU"
    if config.cpu_kernel == "torch":
        return "cpu_kernel is torch"
    if config.attention != "auto":
        return f"attention is {config.attention}, and theirs is their own"
    if config.kv_dtype != "auto":
        return f"kv_dtype is {config.kv_dtype}, and they keep keys and values in float32"
    return None if fits else "the model's dimensions do not fit the kernel's vectors"


def codec_of(config: EngineConfig) -> tuple[Any, tuple[str, str | None]]:
    """The codec, its name and, from the hub, its commit."""
    if config.load_format == "dummy":
        name = config.codec or "snac-24khz"
        return ckpt.dummy_codec(name), (name, None)
    if config.codec is None and config.is_demo:
        return ckpt.load_codec(str(DEMO_CHECKPOINT / "codec")), ("lyre-demo-codec", None)
    name = config.codec or ckpt.DEFAULT_CODEC
    folder = ckpt.codec_folder(name, config.codec_revision)
    return ckpt.load_codec(str(folder)), (name, ckpt.commit_of(name, folder))
