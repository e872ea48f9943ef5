"""A built image's root, run as a container runtime would: read-only, its user, its environment, process 1 its own.

Needs root and Linux; nothing but `unshare`, `mount` and `chroot`.
"""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

# /tmp and the volume are all that can be written. The mounts are this process's alone and go with it.
_ENTER = """
set -e
mount --bind "$ROOT" "$ROOT"
mount -o remount,bind,ro "$ROOT"
mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmpfs "$ROOT/tmp"
mount --bind "$VOLUME" "$ROOT/cache"
mount --rbind /dev "$ROOT/dev"
mount -t proc proc "$ROOT/proc"
exec chroot --userspec="$IDS" "$ROOT" env -i "$@"
"""


class RunningRoot:
    """The image's own command in its root, which is `root` mounted read-only; `volume` becomes its /cache."""

    def __init__(self, root: Path, config: dict[str, Any], volume: Path, log: Path, **environ: str) -> None:
        self._root, self._log = root, log
        self._environ = dict(entry.split("=", 1) for entry in config["Env"]) | environ
        self._ids = config["User"]
        command = [*config["Entrypoint"], *config["Cmd"]]
        own = {"ROOT": str(root), "VOLUME": str(volume), "IDS": self._ids}
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*namespaces, "sh", "-c", _ENTER, "sh", *self._pairs(), *command],
                env=os.environ | own,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def log(self) -> str:
        """All that it has written so far."""
        return self._log.read_text()

    @property
    def ended(self) -> bool:
        """Whether it is over, however that came."""
        return self._process.poll() is not None

    @property
    def first(self) -> int:
        """The process that is number 1 in there, by its number out here."""
        (child,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(child)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Another command beside it: the same root, user and environment, as HEALTHCHECK and `exec` have them."""
        enter = ["nsenter", "--target", str(self.first), "--mount", "--pid", "--root"]
        user, group = self._ids.split(":")
        return subprocess.run(
            [*enter, "--setuid", user, "--setgid", group, "env", "-i", *self._pairs(), *command],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def stop(self, patience: float) -> int:
        """What `docker stop` does: SIGTERM to process 1; its exit code."""
        os.kill(self.first, signal.SIGTERM)
        return self._process.wait(patience)

    def kill(self) -> None:
        """End its process 1, and with it all that is in there; the death of `unshare` alone would not reach it."""
        if not self.ended:
            os.kill(self.first, signal.SIGKILL)
            self._process.wait()

    def _pairs(self) -> list[str]:
        return [f"{name}={value}" for name, value in self._environ.items()]


def image_config(inspected: str) -> dict[str, Any]:
    """The runtime's part of what `buildah inspect` prints of an image in Docker's format."""
    return json.loads(inspected)["Docker"]["config"]
