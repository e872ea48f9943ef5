"""Which device each engine process runs on."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from typing import Final

from engine.config import EngineConfig
from engine.errors import ConfigError
from engine.process import ROOT

COUNT_SECONDS: Final = 60.0


async def placed(config: EngineConfig) -> list[EngineConfig]:
    """One configuration for each engine process, with its own `device`. ConfigError when the GPUs cannot be counted."""
    if config.devices is None:
        return [config]
    # As with `device`, auto is the CPU where no GPU is.
    names = config.device_names or [f"cuda:{index}" for index in range(await cuda_devices())] or ["cpu"]
    threads = config.cpu_threads
    if threads is None and names[0] == "cpu":
        threads = max(1, (os.cpu_count() or 1) // len(names))
    return [replace(config, device=name, devices=None, cpu_threads=threads) for name in names]


async def cuda_devices() -> int:
    """How many an engine process will see, by asking the driver in a process of its own.

    Only the driver knows it in a container, with CUDA_VISIBLE_DEVICES and with MIG; and a process that has asked it
    has initialised CUDA.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engine.driver"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), COUNT_SECONDS)
    except TimeoutError:
        raise ConfigError("devices", f"the CUDA driver did not answer within {COUNT_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        why = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise ConfigError("devices", f"the CUDA devices cannot be counted: {why or process.returncode}")
    return int(output)
