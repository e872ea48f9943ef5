"""Checks of this machine that need no model: Python, packages, compiler, folders, ports, descriptors, keys, clock."""

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from api import __version__
from api.auth import KeyRing
from api.crowd import RESERVE, raise_descriptor_limit, room
from api.doctor.findings import Finding, error, ok, warning
from api.serve import listen
from api.settings import Settings
from engine import ConfigError

RELEASED: Final = 1_780_000_000
"""A clock that shows less, in seconds since 1970, is wrong: 2026-05-28."""
SOCKET_PATH: Final = 107
"""Bytes that the path of a Unix socket may have on Linux, less its end."""
SHM: Final = 64 * 2**20
KERNELS: Final = 2**30
"""Room for compiled kernels."""


def machine(settings: Settings) -> Iterator[Finding]:
    """All of them."""
    yield python()
    yield from packages()
    yield compiler()
    yield clock(time.time())
    yield descriptors(settings, raise_descriptor_limit())
    yield from folders(settings)
    yield from ports(settings)
    yield from keys(settings)


def python() -> Finding:
    """The interpreter."""
    running = ".".join(map(str, sys.version_info[:3]))
    return ok("Python", f"{running} ({sys.executable}), Lyre {__version__}")


def packages() -> Iterator[Finding]:
    """What Lyre asks for, against what is installed."""
    try:
        asked = requires("lyre") or []
    except PackageNotFoundError:
        yield warning("packages", "Lyre runs from its folder and is not installed", "pip install -e .")
        return
    wrong = [problem for text in asked if (problem := _unmet(Requirement(text)))]
    if wrong:
        yield error("packages", "; ".join(wrong), "pip install -e . in Lyre's folder, or build the image again")
    else:
        yield ok("packages", f"all {len(asked)} as Lyre asks for them")


def _unmet(requirement: Requirement) -> str | None:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(installed, prereleases=True):
        return None
    return f"{requirement.name} is {installed}, not {requirement.specifier}"


def compiler() -> Finding:
    """The C compiler, as the kernels' build looks for one."""
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        advice = (
            "install gcc or clang: without it the CPU path is several times slower and Triton cannot start on a GPU"
        )
        return warning("C compiler", "none", advice)
    return ok("C compiler", found)


def clock(now: float) -> Finding:
    """A wrong one breaks every encrypted download."""
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < RELEASED:
        return error("clock", f"{shown} is in the past", "set it, by NTP: certificates of the hub will not be valid")
    return ok("clock", shown)


def descriptors(settings: Settings, limit: int | None) -> Finding:
    """How many connections the limit on open files leaves."""
    connections = room(settings.max_connections, limit)
    shown = "no limit" if limit is None else f"{limit}"
    streams = settings.max_concurrency + settings.max_queue
    if connections < streams:
        advice = f"raise the limit to {settings.max_connections + RESERVE} (ulimit -Hn, LimitNOFILE=, --ulimit nofile=)"
        return error("open files", f"{shown}: {connections} connections for {streams} streams", advice)
    if connections < settings.max_connections:
        advice = f"raise the limit to {settings.max_connections + RESERVE}, or lower max_connections to {connections}"
        return warning("open files", f"{shown}: {connections} connections of {settings.max_connections}", advice)
    return ok("open files", f"{shown}, {connections} of them for connections")


def folders(settings: Settings) -> Iterator[Finding]:
    """Where kernels are kept, where sockets are made, and shared memory."""
    cache = settings.engine_config().cache_folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            free = shutil.disk_usage(cache).free
        kept = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        shown = f"{cache}: {kept / 2**20:.0f} MiB kept, {free / 2**30:.1f} GiB free"
        if free < KERNELS - kept:
            yield warning("cache", shown, "make room: compiled kernels may take some hundred MiB")
        else:
            yield ok("cache", shown)
    except OSError as problem:
        advice = "make it writable, or set LYRE_CACHE to a folder that is; in a container to a volume"
        yield error("cache", f"{cache}: {problem.strerror or problem}", advice)
    yield _sockets()
    shm = Path("/dev/shm")
    if sys.platform == "linux" and (not shm.is_dir() or shutil.disk_usage(shm).total < SHM):
        yield warning(
            "/dev/shm", "missing or under 64 MiB", "in a container: --shm-size=256m, or an emptyDir of memory"
        )


def _sockets() -> Finding:
    try:
        with tempfile.TemporaryDirectory(prefix="lyre-") as folder:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(Path(folder) / "out"))
            return ok("sockets", f"can be made in {Path(folder).parent}")
    except OSError as problem:
        where = tempfile.gettempdir() if not isinstance(problem, FileNotFoundError) else "no folder for temporary files"
        advice = f"set TMPDIR to a short path (a socket's has at most {SOCKET_PATH} bytes) that can be written"
        return error("sockets", f"{where}: {problem.strerror or problem}", advice)


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether they are free."""
    for name, port in (("port", settings.port), ("metrics port", settings.metrics_port)):
        if port is None:
            continue
        try:
            listen(settings.host, port, settings.send_timeout).close()
        except OSError as problem:
            advice = "stop what listens there, or choose another one; lyre doctor --url asks a server that runs"
            yield error(name, f"{settings.host}:{port}: {problem.strerror or problem}", advice)
        else:
            yield ok(name, f"{settings.host}:{port} is free" if port else "a free one will be taken")


def keys(settings: Settings) -> Iterator[Finding]:
    """Who may speak, never with which key."""
    file = settings.api_keys_file
    try:
        ring = KeyRing(settings.api_keys, file)
    except ConfigError as problem:
        yield error("API keys", problem.message, "put one key on a line: printable ASCII without spaces")
        return
    local = settings.host in ("localhost", "::1") or settings.host.startswith("127.")
    if not ring.required and not local:
        advice = "set LYRE_API_KEYS_FILE, or let only a gateway that checks keys reach this address"
        yield warning("API keys", f"none: everybody who reaches {settings.host} can use the server", advice)
    elif not ring.required:
        yield ok("API keys", "none are asked for, on this machine's own address")
    elif file is not None and os.name == "posix" and file.stat().st_mode & 0o004:
        yield warning("API keys", f"{file} can be read by every user", f"chmod o-r {file}")
    else:
        yield ok("API keys", f"{len(settings.api_keys)} given" + (f", and those in {file}" if file else ""))
