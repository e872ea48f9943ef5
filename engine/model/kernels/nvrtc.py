"""CUDA C++ compiled for the device that is there, by the NVRTC that torch brings, and launched through the driver.

Compiled kernels lie in Triton's cache of them, where later starts find them.
"""

# torch brings cuda.bindings to machines with a GPU only.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import ctypes
import hashlib
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from triton.runtime.cache import get_cache_manager

OPTIONS = ("--gpu-architecture=sm_90a", "--std=c++17")
SHARED = Path(__file__).with_name("device.cuh")
CAPABILITY = (9, 0)  # what they are compiled for, and nothing else
CLUSTER = 4  # programs of one cluster, at most, each with a multiprocessor's memory


class NvrtcError(Exception):
    """A call of CUDA's compiler or driver failed; the message names it."""


class Kernel:
    """A function of a source, on the current device; `threads` a program, `shared` bytes of memory for each."""

    def __init__(self, source: str, name: str, threads: int, shared: int = 0) -> None:
        """NvrtcError where it cannot be compiled or loaded."""
        from cuda.bindings import driver

        torch.cuda.synchronize()  # the driver wants a context: this makes one where there is none
        self._module = checked(driver.cuModuleLoadData(compiled(source)))
        self._function = checked(driver.cuModuleGetFunction(self._module, name.encode()))
        self.threads, self.shared = threads, shared
        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        checked(driver.cuFuncSetAttribute(self._function, most, shared))

    def launch(self, grid: tuple[int, int, int], early: bool, *arguments: Any, cluster: int = 1) -> None:
        """On the current stream. `arguments`: ctypes values, or what has a `getPtr` to a struct.

        `early`: before the last kernel has finished, as in engine.model.kernels.chain. `cluster`: so many programs
        along y are one.
        """
        from cuda.bindings import driver

        config = self._config(grid, early, cluster)
        config.hStream = torch.cuda.current_stream().cuda_stream
        at = [each.getPtr() if hasattr(each, "getPtr") else ctypes.addressof(each) for each in arguments]
        pointers = (ctypes.c_void_p * len(at))(*at)
        checked(driver.cuLaunchKernelEx(config, self._function, ctypes.addressof(pointers), 0))

    def clusters(self, size: int) -> int:
        """How many clusters of so many programs the device runs at a time."""
        from cuda.bindings import driver

        return checked(driver.cuOccupancyMaxActiveClusters(self._function, self._config((1, size, 1), False, size)))

    def _config(self, grid: tuple[int, int, int], early: bool, cluster: int) -> Any:
        from cuda.bindings import driver

        kinds = driver.CUlaunchAttributeID
        attributes = [_attribute(kinds.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) for _ in range(cluster > 1)]
        for attribute in attributes:
            size = attribute.value.clusterDim
            size.x, size.y, size.z = 1, cluster, 1
        if early:
            attributes.append(_attribute(kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION))
            attributes[-1].value.programmaticStreamSerializationAllowed = 1
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = self.threads, 1, 1
        config.sharedMemBytes = self.shared
        config.attrs, config.numAttrs = attributes, len(attributes)
        return config


def _attribute(kind: Any) -> Any:
    from cuda.bindings import driver

    attribute = driver.CUlaunchAttribute()
    attribute.id = kind
    return attribute


def checked(result: tuple[Any, ...]) -> Any:
    """What a call of cuda.bindings returned, without its status. NvrtcError when that is a failure."""
    status, *rest = result
    if int(status) != 0:
        raise NvrtcError(str(status))
    return rest[0] if len(rest) == 1 else tuple(rest)


def compiled(source: str) -> bytes:
    """The machine code of SHARED and `source`, from the cache if it is there. NvrtcError with the compiler's words."""
    from cuda.bindings import nvrtc

    source = SHARED.read_text() + source
    version = checked(nvrtc.nvrtcVersion())
    key = hashlib.sha256(repr((source, OPTIONS, version)).encode()).hexdigest()
    kept = get_cache_manager(key)
    if path := kept.get_file("kernel.cubin"):
        return Path(path).read_bytes()
    program = checked(nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", 0, [], []))
    (status,) = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), [option.encode() for option in OPTIONS])
    if int(status) != 0:
        log = b" " * checked(nvrtc.nvrtcGetProgramLogSize(program))
        checked(nvrtc.nvrtcGetProgramLog(program, log))
        raise NvrtcError(log.decode(errors="replace").strip("\0 \n"))
    code = b" " * checked(nvrtc.nvrtcGetCUBINSize(program))
    checked(nvrtc.nvrtcGetCUBIN(program, code))
    checked(nvrtc.nvrtcDestroyProgram(program))
    kept.put(code, "kernel.cubin", binary=True)
    return code


def constants(**values: int) -> str:
    """What stands before a source that is compiled for these values."""
    return "".join(f"constexpr int {name} = {value};\n" for name, value in values.items())


def is_hopper(device: torch.device) -> bool:
    """Whether the kernels are for such a device."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == CAPABILITY


@cache
def unusable(device: torch.device) -> str | None:
    """Why kernels cannot be compiled, loaded or run on a Hopper GPU, or None."""
    room = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    try:
        # Of a partitioned GPU there may be too little in one place.
        if not Kernel('extern "C" __global__ void nothing() {}', "nothing", 32, room).clusters(CLUSTER):
            return f"no {CLUSTER} multiprocessors near each other"
    except (ImportError, NvrtcError, RuntimeError) as error:
        # cuda.bindings raises RuntimeError where it does not find the libraries.
        return f"{type(error).__name__}: {error}"
    return None


@lru_cache(4096)
def tensor_map(at: int, sizes: tuple[int, ...], strides: tuple[int, ...], box: tuple[int, ...]) -> Any:
    """How tiles of the bf16 tensor at `at` are copied to shared memory, with the 128-byte swizzle; zeros lie outside.

    Sizes, strides (of all dimensions but the first) and the tile, in elements, the innermost dimension first.
    """
    from cuda.bindings import driver

    return checked(
        driver.cuTensorMapEncodeTiled(
            driver.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            len(sizes),
            at,
            [driver.cuuint64_t(size) for size in sizes],
            [driver.cuuint64_t(2 * stride) for stride in strides],
            [driver.cuuint32_t(size) for size in box],
            [driver.cuuint32_t(1) for _ in sizes],
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
            # What a row has beside the tile would come to L2, too, and be asked for again: 3 % slower products.
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_NONE,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    )


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """A kernel's argument."""
    return ctypes.c_void_p(tensor.data_ptr() if tensor is not None else None)
