"""`lyre serve` whose processes tell what they hold, and break when they are told to.

    python -m benchmarks.probed serve --port 8000 ...

Each process answers on a Unix socket in the folder of the environment's PROBES: the server's how many asyncio tasks
there are, the engine's how many requests are in its scheduler. `fault` makes the engine's next step fail as it does
when the CUDA context is lost. The servers and engines themselves know nothing of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULE = "benchmarks.probed"
FOLDER = "PROBES"
FAULT = "CUDA error: an illegal memory access was encountered"


def answer_probes(about: Callable[[str], dict[str, Any]]) -> None:
    """A thread that tells whoever connects `about` the word that they sent."""
    path = Path(os.environ[FOLDER]) / str(os.getpid())
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                word = connection.recv(100).decode()
                connection.sendall(json.dumps(about(word)).encode())

    threading.Thread(target=serve, daemon=True, name="probe").start()


def probe(folder: Path, pid: int, word: str = "held") -> dict[str, Any]:
    """What a process says. OSError when it does not exist, has not come so far, or is stopped."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(folder / str(pid)))
        connection.sendall(word.encode())
        return json.loads(b"".join(iter(lambda: connection.recv(4096), b"")))


def engine(inbox: str, outbox: str, config: str) -> int:
    """In the place of engine.worker's main."""
    import engine.worker as worker
    from engine.model.runner import ModelRunner

    schedulers: list[Any] = []
    broken = threading.Event()
    launch = ModelRunner.launch

    class Scheduler(worker.Scheduler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            schedulers.append(self)

    def launch_or_fail(self: ModelRunner, *arguments: Any, **options: Any) -> Any:
        if broken.is_set():
            raise RuntimeError(FAULT)
        return launch(self, *arguments, **options)

    def about(word: str) -> dict[str, Any]:
        if word == "fault":
            broken.set()
        return {"rows": sum(len(one.running) + one.waiting for one in schedulers)}

    worker.Scheduler, ModelRunner.launch = Scheduler, launch_or_fail  # type: ignore[method-assign, misc]
    answer_probes(about)
    return worker.main(inbox, outbox, config)


def server() -> None:
    """`lyre`, whose engine processes are this module."""
    from api.__main__ import main as lyre  # the engine needs nothing of it

    start = asyncio.create_subprocess_exec
    loops: list[asyncio.AbstractEventLoop] = []

    async def start_probed(*command: str, **options: Any) -> asyncio.subprocess.Process:
        loops[:] = [asyncio.get_running_loop()]
        return await start(*(MODULE if word == "engine.worker" else word for word in command), **options)

    asyncio.create_subprocess_exec = start_probed
    answer_probes(lambda word: {"tasks": sum(len(asyncio.all_tasks(loop)) for loop in loops)})
    sys.argv[0] = "lyre"
    lyre()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        server()
    else:
        sys.exit(engine(*sys.argv[1:]))
