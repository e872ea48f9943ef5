"""Which devices the engine processes get, and how GPUs are counted: by a driver that may be missing or broken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import ConfigError, EngineConfig
from engine.devices import placed
from engine.driver import device_count

DRIVER = """
#include <stdlib.h>
int cuInit(unsigned flags) { return atoi(getenv("CUDA_STATUS")); }
int cuDeviceGetCount(int *count) { *count = atoi(getenv("CUDA_COUNT")); return 0; }
int cuGetErrorName(int status, const char **name) { *name = "CUDA_ERROR_OF_A_TEST"; return 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the driver's interface that says what the environment tells it."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER, encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "driver.c"], check=True)
    return folder


@pytest.fixture
def cuda(driver: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """`cuda(count, status)`: processes that are started now find this driver."""

    def install(count: int, status: int = 0) -> None:
        monkeypatch.setenv("CUDA_COUNT", str(count))
        monkeypatch.setenv("CUDA_STATUS", str(status))
        monkeypatch.setenv("LD_LIBRARY_PATH", f"{driver}:{os.environ.get('LD_LIBRARY_PATH', '')}")

    return install


def placement(configs: list[EngineConfig]) -> list[tuple[str, int | None]]:
    assert all(config.devices is None for config in configs)
    return [(config.device, config.cpu_threads) for config in configs]


@pytest.mark.anyio
async def test_without_a_list_there_is_one_process_as_set() -> None:
    config = EngineConfig(device="cuda:1", cpu_threads=3)
    assert await placed(config) == [config]


@pytest.mark.anyio
async def test_a_list_is_a_process_for_each() -> None:
    assert placement(await placed(EngineConfig(devices="1, cuda:0"))) == [("cuda:1", None), ("cuda:0", None)]
    assert placement(await placed(EngineConfig(devices="cpu", cpu_threads=3))) == [("cpu", 3)]


@pytest.mark.anyio
async def test_cpu_processes_share_the_cores() -> None:
    cores = os.cpu_count() or 1
    assert placement(await placed(EngineConfig(devices="cpu,cpu"))) == [("cpu", max(1, cores // 2))] * 2


@pytest.mark.anyio
async def test_auto_is_every_gpu_that_the_driver_counts(cuda: Callable[..., None]) -> None:
    cuda(3)
    configs = await placed(EngineConfig(devices="auto", max_concurrency=5))
    assert [config.device for config in configs] == ["cuda:0", "cuda:1", "cuda:2"]
    assert {config.max_concurrency for config in configs} == {5}


@pytest.mark.anyio
@pytest.mark.parametrize("status", [0, 100], ids=["none counted", "no device"])
async def test_auto_without_a_gpu_is_the_cpu(cuda: Callable[..., None], status: int) -> None:
    cuda(0, status)
    assert [config.device for config in await placed(EngineConfig(devices="auto"))] == ["cpu"]


@pytest.mark.anyio
async def test_a_driver_that_does_not_start_is_an_error_and_not_the_cpu(cuda: Callable[..., None]) -> None:
    cuda(2, 803)
    with pytest.raises(ConfigError, match="CUDA error 803, CUDA_ERROR_OF_A_TEST") as caught:
        await placed(EngineConfig(devices="auto"))
    assert caught.value.field == "devices"


def test_without_a_driver_there_is_no_gpu() -> None:
    assert device_count("libcuda-that-nobody-has.so.1") == 0


def test_counting_loads_no_torch() -> None:
    code = "import sys, engine.driver; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
