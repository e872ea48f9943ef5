"""What torch, the GPUs and a checkpoint are like, found out in a process that may die of it.

Run as a program with an EngineConfig in JSON, it prints a JSON object a line: {"fact": name, ...}, or {"fact": name,
"error": why}. Whatever breaks, the lines before it have been printed.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import msgspec

from engine.config import EngineConfig


def main(config_json: str) -> None:
    """All facts, from those that need least."""
    config = msgspec.json.decode(config_json, type=EngineConfig)
    tell("driver", driver)
    tell("torch", torch_build)
    tell("gpus", gpus)
    tell("packages", packages)
    tell("model", lambda: model(config))
    tell("codec", lambda: codec(config))
    tell("room", lambda: room(config))


def tell(fact: str, find: Callable[[], dict[str, Any]]) -> None:
    """Prints what `find` finds, or why it does not."""
    try:
        found = find()
    except Exception as error:  # noqa: BLE001
        # This broad because a broken installation raises anything; the next fact may still be had.
        found = {"error": f"{type(error).__name__}: {error}"[:500]}
    sys.stdout.write(json.dumps({"fact": fact, **found}) + "\n")
    sys.stdout.flush()


def driver(library: str = "libcuda.so.1") -> dict[str, Any]:
    """The newest CUDA that the driver can run, as 13000 for 13.0; None without a driver."""
    try:
        loaded = ctypes.CDLL(library)
    except OSError:
        return {"cuda": None}
    number = ctypes.c_int()
    status = loaded.cuDriverGetVersion(ctypes.byref(number))
    return {"cuda": number.value} if status == 0 else {"cuda": None, "error": f"CUDA error {status}"}


def torch_build() -> dict[str, Any]:
    """Its version, and the CUDA that it was built with."""
    import torch

    return {"version": torch.__version__, "cuda": torch.version.cuda}


def gpus() -> dict[str, Any]:
    """Those that torch can use: name, compute capability, bytes; and what its kernels were compiled for."""
    import torch

    if not torch.cuda.is_available():
        return {"gpus": [], "kernels": []}
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        found.append({"name": name, "capability": capability, "free": free, "total": total})
    return {"gpus": found, "kernels": torch.cuda.get_arch_list()}


def packages() -> dict[str, Any]:
    """Whether those are there that not every machine needs."""
    return {name: find_spec(name) is not None for name in ("triton", "flash_attn")}


def model(config: EngineConfig) -> dict[str, Any]:
    """The checkpoint's names and sizes; its tensors are counted, not read."""
    from engine.model.loading import open_model

    found = open_model(config)
    return {
        "name": found.name,
        "voices": found.voices,
        "commit": found.commit,
        "weights": weight_bytes(config),
        "context": min(config.max_context, found.shape.max_positions),
    }


def codec(config: EngineConfig) -> dict[str, Any]:
    """Its name, and that it can be loaded."""
    from engine.model.loading import codec_of

    _, (name, commit) = codec_of(config)
    return {"name": name, "commit": commit}


def room(config: EngineConfig) -> dict[str, Any]:
    """For each GPU that will be used how the slots fit: {"said"} or, where they do not, {"error"}."""
    import torch

    from engine.errors import ConfigError
    from engine.model.loading import codec_of, kept_dtype, open_model
    from engine.model.memory import Card, Slot, check_room, codec_bytes, slot_bytes
    from engine.model.snac_layers import snac_layers

    if not torch.cuda.is_available() or config.device == "cpu":
        return {"rooms": []}
    shape = open_model(config).shape
    layers = snac_layers(codec_of(config)[0], "the codec")
    dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
    context = min(config.max_context, shape.max_positions)
    slot = Slot(slot_bytes(shape, 1, kept_dtype(config, dtype)), context, codec_bytes(layers, torch.float32))
    rooms = []
    for name in config.device_names or [config.device]:
        index = int(name.partition(":")[2] or 0)
        free, total = torch.cuda.mem_get_info(index)
        weights = weight_bytes(config)
        card = Card(torch.cuda.get_device_name(index), total, free - weights, weights, config.memory_share)
        try:
            rooms.append({"device": name, "said": check_room(config.max_concurrency, slot, card)})
        except ConfigError as error:
            rooms.append({"device": name, "error": error.message})
    return {"rooms": rooms}


def weight_bytes(config: EngineConfig) -> int:
    """What the language model's weights will take, as they are set to be kept."""
    from engine.model.loading import open_model
    from engine.model.weights import HEAD_ROWS
    from engine.prompt import FRAME_TOKENS

    shape = open_model(config).shape
    size = 4 if config.dtype == "float32" else 2
    attention = 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)
    layers = shape.layers * (attention + 3 * shape.hidden * shape.intermediate)
    rows = shape.vocab * (1 if shape.tied else 2) + FRAME_TOKENS * HEAD_ROWS
    return layers * (1 if config.quantization == "fp8" else size) + rows * shape.hidden * size


if __name__ == "__main__":
    main(sys.argv[1])
