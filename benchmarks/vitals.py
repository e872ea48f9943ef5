"""What a server's processes hold: memory, file descriptors, threads, and memory of the GPUs. Linux only."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 2**20
ENGINES = (b"engine.worker", b"benchmarks.probed")
"""Modules that an engine process runs."""


@dataclass(frozen=True)
class Vitals:
    """Sums over the processes of one kind; `pids` says which they are."""

    pids: tuple[int, ...]
    rss_mib: float
    files: int
    threads: int


def vitals(pids: tuple[int, ...]) -> Vitals:
    """Of these processes now. OSError when one of them is gone."""
    folders = [Path("/proc") / str(pid) for pid in pids]
    resident = sum(int((folder / "statm").read_text().split()[1]) for folder in folders)
    return Vitals(
        pids,
        round(resident * PAGE / MIB, 1),
        sum(len(list((folder / "fd").iterdir())) for folder in folders),
        sum(len(list((folder / "task").iterdir())) for folder in folders),
    )


def engines(server: int) -> tuple[int, ...]:
    """The engine processes of a server's process."""
    children = {
        int(child)
        for task in (Path("/proc") / str(server) / "task").iterdir()
        for child in (task / "children").read_text().split()
    }
    return tuple(sorted(pid for pid in children if any(name in _command(pid) for name in ENGINES)))


def gpu_mib() -> float | None:
    """Memory in use on the GPUs of CUDA_VISIBLE_DEVICES, or on all, whoever uses it; None without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return None
    # Not by process: inside a container the driver's process ids are others.
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={named}")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    numbers = [line.strip() for line in done.stdout.splitlines()]
    return float(sum(map(int, numbers))) if done.returncode == 0 and all(map(str.isdigit, numbers)) else None


def _command(pid: int) -> bytes:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""
