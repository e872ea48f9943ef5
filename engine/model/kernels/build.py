"""Compiles the CPU kernels with the system's C compiler, once for a source, a compiler and a processor."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = (FOLDER / "decode.c", FOLDER / "snac.c")
HEADER = FOLDER / "simd.h"
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-std=gnu11")


class BuildError(Exception):
    """There is no C compiler, or it refused the source; the message says which."""


def load(cache: Path) -> ctypes.CDLL:
    """The compiled kernels, loaded. BuildError says why they cannot be."""
    path = build(cache)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path} cannot be loaded: {error}") from error


def build(cache: Path) -> Path:
    """The shared library's path in `cache`, compiled if it is not there yet. BuildError says why it cannot be."""
    try:
        return _build(cache)
    except OSError as error:
        raise BuildError(f"{cache} cannot be used: {error}") from error


def _build(cache: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BuildError("no C compiler (cc, gcc or clang) on the PATH")
    target = cache / f"kernels-{_fingerprint(compiler)}.so"
    if target.is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=cache, suffix=".so")
    os.close(handle)
    unfinished = Path(name)
    try:
        command = [compiler, *FLAGS, "-o", name, *map(str, SOURCES), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"{compiler} failed: {done.stderr.strip()[:500]}")
        # Renaming is atomic: a second process starting at the same time never loads half a file.
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def _fingerprint(compiler: str) -> str:
    # -march=native makes the file good for this processor only; homes are shared between machines.
    processor = platform.machine() + platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        processor += "".join(
            line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "model name"))
        )
    text = "".join(path.read_text() for path in (*SOURCES, HEADER)) + " ".join(FLAGS) + compiler + processor
    return hashlib.sha256(text.encode()).hexdigest()[:16]
