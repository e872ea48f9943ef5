"""What the CUDA driver counts as devices, torch aside. Run as a program, it prints that: in a process of its own."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

NO_DEVICE: Final = 100  # CUDA_ERROR_NO_DEVICE


def device_count(library: str = "libcuda.so.1") -> int:
    """0 without a driver or a device; CUDA_VISIBLE_DEVICES counts. OSError when the driver does not start."""
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return 0
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status in (0, NO_DEVICE):
        return count.value
    name = ctypes.c_char_p()
    driver.cuGetErrorName(status, ctypes.byref(name))
    raise OSError(f"CUDA error {status}, {(name.value or b'unknown').decode()}")


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{device_count()}\n")
    except OSError as error:
        sys.exit(str(error))
