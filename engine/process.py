"""The engine process as the server's side sees it: started, ended, and why it would not start."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import msgspec

from engine.config import EngineConfig
from engine.errors import CheckpointError, ConfigError, EngineError
from engine.messages import Broken

ROOT = Path(__file__).resolve().parent.parent
WORKER = "engine.worker"  # the module that runs there
LONGEST_LINE = 10_000  # bytes of a line that are logged
# What a worker says before it ends, in Python or below it.
CRASH = re.compile(rb"(?i)traceback|most recent call|error|exception|fatal|abort|assert|terminate called|CUDA")
LOOK_SECONDS = 0.25  # between two looks at whether a process whose pipes are held has ended

log = logging.getLogger(__name__)

_RELAYS: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks too loosely


async def start_worker(config: EngineConfig, inbox: str, outbox: str) -> asyncio.subprocess.Process:
    """`inbox` and `outbox` are the worker's ends of its two sockets."""
    settings = msgspec.json.encode(_anchored(config)).decode()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", WORKER, inbox, outbox, settings),
        # The pipe tells the worker that this process lives; a new session keeps the terminal's Ctrl-C away from it.
        stdin=asyncio.subprocess.PIPE,
        start_new_session=True,
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE if config.log_format == "json" else None,
        env=environment(),
    )
    if process.stderr is not None:
        relay = asyncio.create_task(_log_lines(process.stderr))
        _RELAYS.add(relay)
        relay.add_done_callback(_RELAYS.discard)
    return process


async def _log_lines(pipe: asyncio.StreamReader) -> None:
    """What a worker writes to its standard error, until it ends."""
    rest, crashing = b"", False
    while data := await pipe.read(65_536):
        *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
        for line in filter(None, lines):
            crashing = _log_line(line, crashing)
        rest = rest[:LONGEST_LINE]
    if rest:
        _log_line(rest, crashing)


def _log_line(line: bytes, crashing: bool) -> bool:
    """An error if it tells of one, or is part of its traceback: that is to be read at every level. -> whether it is."""
    crashing = CRASH.search(line) is not None or (crashing and line.startswith(b" "))
    log.log(logging.ERROR if crashing else logging.WARNING, "%s", line[:LONGEST_LINE].decode(errors="replace"))
    return crashing


def environment() -> dict[str, str]:
    """This process' variables without the server's own: an engine process has no use for the keys of its callers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LYRE_")}


async def ended(process: asyncio.subprocess.Process) -> int:
    """Its status, once it has ended.

    asyncio's `wait()` may also wait for the pipes, which a compiler that it had started can hold for long.
    """
    waiting = asyncio.ensure_future(process.wait())
    try:
        while process.returncode is None:
            await asyncio.wait({waiting}, timeout=LOOK_SECONDS)
        return process.returncode
    finally:
        waiting.cancel()


async def end_worker(process: asyncio.subprocess.Process, seconds: float) -> None:
    """Waits for a process that was asked to leave, or has left; kills it when it does not.

    Returns after twice these seconds even if the kernel does not let it go.
    """
    try:
        await asyncio.wait_for(ended(process), seconds)
    except TimeoutError:
        process.kill()
        try:
            await asyncio.wait_for(ended(process), seconds)
        except TimeoutError:
            log.error("engine process %d does not go away: the kernel holds it", process.pid)


def start_error(message: Broken) -> EngineError:
    """The error that the worker's own start ended with."""
    if message.kind == ConfigError.__name__ and message.field is not None:
        return ConfigError(message.field, message.message.removeprefix(f"{message.field}: "))
    return CheckpointError(message.message)


def _anchored(config: EngineConfig) -> EngineConfig:
    """The worker runs in another folder: paths that are relative to this one are made absolute."""

    def anchored(source: str | None) -> str | None:
        # A path that no file system knows (too long, no such user) is the worker's to refuse.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            if source and (path := Path(source).expanduser()).exists():
                return str(path.absolute())
        return source

    config = replace(config, cache=str(config.cache_folder.absolute()))
    if config.load_format == "dummy":
        return config
    return replace(config, model=anchored(config.model), codec=anchored(config.codec))
