"""Checks of torch, the GPUs and the memory, by a process of their own: what is broken there breaks only that."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from api.doctor.findings import Finding, error, ok, warning
from api.settings import Settings
from engine.process import ROOT, environment

PROBE: Final = "engine.model.probe"
SECONDS: Final = 240.0
_TORCH: Final = "pip install --force-reinstall torch==2.13.0, or build the image again"

Facts = dict[str, dict[str, Any]]


def probe(settings: Settings) -> tuple[Facts, str]:
    """What the process could say before it ended, and why it ended early (empty: it did not)."""
    config = msgspec.json.encode(settings.engine_config()).decode()
    # What is not in the cache is not downloaded here.
    environ = environment() | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", PROBE, config]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as late:
        return _facts(late.stdout or b""), f"it did not answer within {SECONDS:g} s"
    except OSError as problem:
        return {}, str(problem)
    if done.returncode == 0:
        return _facts(done.stdout), ""
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:300]
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
    return _facts(done.stdout), f"it ended with {ended}" + (f": {last}" if last else "")


def _facts(output: bytes) -> Facts:
    facts: Facts = {}
    for line in output.decode(errors="replace").splitlines():
        try:
            fact = json.loads(line)
            facts[fact["fact"]] = fact
        except (ValueError, KeyError, TypeError):
            continue  # a library's own words
    return facts


def accelerator(settings: Settings, facts: Facts, ended: str) -> Iterator[Finding]:
    """What the facts mean for these settings."""
    yield from _torch(facts.get("torch"), ended)
    driver, torch = facts.get("driver", {}), facts.get("torch", {})
    gpus = facts.get("gpus", {}).get("gpus", [])
    wanted = _wants_gpu(settings)
    if settings.device == "cpu" or (settings.devices or "").startswith("cpu"):
        yield ok("GPU", "not asked for: the settings say cpu")
    elif driver.get("cuda") is None:
        yield from _without_driver(wanted, driver)
    else:
        yield from _versions(driver["cuda"], torch)
        if not gpus and "gpus" in facts:
            why = facts["gpus"].get("error", "torch sees none")
            advice = "nvidia-smi should list it; in a container: --gpus all; CUDA_VISIBLE_DEVICES may hide it"
            yield (error if wanted else warning)("GPU", f"the driver is there, but {why}", advice)
        for gpu in gpus:
            yield _gpu(gpu, facts["gpus"]["kernels"])
        yield from _features(settings, gpus, facts.get("packages", {}))
    yield from _room(facts.get("room", {}))


def _wants_gpu(settings: Settings) -> bool:
    return settings.device.startswith("cuda") or any(c.isdigit() for c in settings.devices or "")


def _torch(fact: dict[str, Any] | None, ended: str) -> Iterator[Finding]:
    if fact is None or "error" in fact:
        why = fact["error"] if fact else ended or "it said nothing"
        yield error("torch", f"cannot be loaded: {why}", _TORCH)
        return
    yield ok("torch", f"{fact['version']}, {'CUDA ' + fact['cuda'] if fact['cuda'] else 'for the CPU'}")
    if ended:
        yield error("torch", f"the process that looks at it died: {ended}", _TORCH)


def _without_driver(wanted: bool, driver: dict[str, Any]) -> Iterator[Finding]:
    if wanted:
        why = driver.get("error", "libcuda.so.1 is not found")
        yield error("GPU", f"no NVIDIA driver: {why}", "install it; in a container: --gpus all; or set LYRE_DEVICE=cpu")
    else:
        yield ok("GPU", "no NVIDIA driver: the CPU will speak")


def _versions(driver: int, torch: dict[str, Any]) -> Iterator[Finding]:
    newest = f"{driver // 1000}.{driver % 1000 // 10}"
    built = torch.get("cuda")
    if "version" in torch and built is None:
        advice = "install PyPI's torch==2.13.0, which is built for CUDA: the GPU is not used"
        yield warning("CUDA", f"the driver runs CUDA {newest}, but torch is built for the CPU", advice)
    elif built is not None and int(built.partition(".")[0]) > driver // 1000:
        advice = f"update the driver to one for CUDA {built} (580 or newer for CUDA 13)"
        yield error("CUDA", f"torch is built for CUDA {built}, the driver runs {newest} at most", advice)
    elif built is not None:
        yield ok("CUDA", f"torch is built for {built}, the driver runs up to {newest}")


def _gpu(gpu: dict[str, Any], kernels: list[str]) -> Finding:
    major, minor = gpu["capability"]
    shown = (
        f"{gpu['name']}, compute capability {major}.{minor}, "
        f"{gpu['free'] / 2**30:.1f} of {gpu['total'] / 2**30:.1f} GiB free"
    )
    if kernels and not _runs(major, minor, kernels):
        return error("GPU", f"{shown}: this torch has no kernels for it", "install a torch built for it, or set device")
    if major < 8:
        return warning("GPU", f"{shown}: too old for bfloat16", "set LYRE_DTYPE=float32, or take an Ampere or newer")
    return ok("GPU", shown)


def _runs(major: int, minor: int, kernels: list[str]) -> bool:
    """Machine code runs on the same major and a higher minor version, intermediate code on everything newer."""
    for kernel in kernels:
        kind, _, digits = kernel.rstrip("af").partition("_")
        if not digits.isdigit():
            continue
        at = divmod(int(digits), 10)
        if at <= (major, minor) and (kind == "compute" or at[0] == major):
            return True
    return False


def _features(settings: Settings, gpus: list[dict[str, Any]], packages: dict[str, Any]) -> Iterator[Finding]:
    small = [name for name in ("quantization", "kv_dtype") if getattr(settings, name) == "fp8"]
    if small and any(tuple(gpu["capability"]) < (8, 9) for gpu in gpus):
        yield error("fp8", "a GPU has none", f"unset LYRE_{small[0].upper()}: it needs Ada, Hopper or newer")
    if settings.attention == "flash" and packages.get("flash_attn") is False:
        yield error("flash-attn", "not installed", "docs/flash-attn.md, or LYRE_ATTENTION=auto")
    if gpus and packages.get("triton") is False:
        report = error if settings.gpu_kernel == "triton" else warning
        yield report(
            "triton", "not installed: the GPU runs torch's slow path", "torch for CUDA brings it: reinstall it"
        )


def _room(fact: dict[str, Any]) -> Iterator[Finding]:
    for room in fact.get("rooms", []):
        if "error" in room:
            yield error("GPU memory", room["error"], "lower one of the settings named, or take a larger card")
        else:
            yield ok("GPU memory", room["said"])


def available_memory() -> int | None:
    """Bytes that this machine, or this container, still has; None where the system does not tell."""
    left = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            left.append(int(line.split()[1]) * 1024)
    most, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if most and used and most[0] != "max":
        left.append(int(most[0]) - int(used[0]))
    return min(left, default=None)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []  # another system, or no such limit
