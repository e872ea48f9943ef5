"""`lyre serve` as a process of its own in a container: started, awaited until it speaks, drained, and never outlived.

Standard library alone; knows nothing of Modal.
"""

import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

COMMAND: Final = (sys.executable, "-m", "api", "serve")
_POLL_SECONDS: Final = 0.2


class Replica:
    """One server. `on_death` gets the exit code of a process that ended without being asked to."""

    def __init__(self, environ: Mapping[str, str], on_death: Callable[[int], None]) -> None:
        self._port = int(environ["LYRE_PORT"])
        self._on_death = on_death
        self._leaving = False
        self._process = subprocess.Popen(COMMAND, env=dict(environ), stdin=subprocess.DEVNULL)

    def wait_ready(self, patience: float) -> None:
        """Return when it takes requests. RuntimeError if it ended; TimeoutError after `patience` seconds."""
        deadline = time.monotonic() + patience
        while not self._ready():
            if (code := self._process.poll()) is not None:
                raise RuntimeError(f"lyre serve ended with exit code {code}; its own lines above say why")
            if time.monotonic() > deadline:
                self.stop(0)
                raise TimeoutError(f"lyre serve was not ready after {patience:.0f} s")
            time.sleep(_POLL_SECONDS)
        threading.Thread(target=self._watch, name="lyre-watch", daemon=True).start()

    def stop(self, patience: float) -> int:
        """SIGTERM, on which it drains; killed after `patience` seconds. -> the exit code, negative for a signal."""
        self._leaving = True
        self._process.terminate()
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _watch(self) -> None:
        code = self._process.wait()
        if not self._leaving:
            self._on_death(code)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def start_replica(
    environ: Mapping[str, str], needs_keys: bool, patience: float, on_death: Callable[[int], None]
) -> Replica:
    """A replica that speaks. PermissionError if it should ask for keys and has none: it would be open to everybody."""
    if needs_keys and not environ.get("LYRE_API_KEYS", "").strip():
        raise PermissionError("LYRE_API_KEYS is empty: the Secret must hold at least one key")
    replica = Replica(environ, on_death)
    replica.wait_ready(patience)
    return replica


def end_container(code: int) -> None:
    """For a server that died: without it the container would answer nothing, and still count as one."""
    sys.stderr.write(f"lyre serve ended with exit code {code}: so does this container\n")
    sys.stderr.flush()
    os._exit(code if 0 < code < 256 else 1)
