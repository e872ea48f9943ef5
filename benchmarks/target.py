"""The server that a benchmark of faults works on: one of its own whose processes can be looked into, or any other."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.probed import FOLDER, MODULE, probe
from benchmarks.server import OwnServer, ServerFailed
from benchmarks.vitals import engines, vitals


@dataclass(frozen=True)
class Target:
    """Where it listens; of a server on this machine its process; of our own, what it can be asked and told."""

    url: str
    pid: int | None = None
    own: OwnServer | None = None
    probes: Path | None = None

    def health(self) -> dict[str, Any]:
        """What /health says, good or bad news."""
        return httpx.get(self.url + "/health", timeout=10, headers={"connection": "close"}).json()

    def outcomes(self) -> Counter[str]:
        """How the requests ended that have ended so far, as its metrics say; nothing where there are none."""
        answer = httpx.get(self.url + "/metrics", timeout=10, headers={"connection": "close"})
        families = text_string_to_metric_families(answer.text) if answer.status_code == 200 else []
        samples = [sample for family in families for sample in family.samples if sample.name == "tts_requests_total"]
        return Counter({sample.labels["outcome"]: int(sample.value) for sample in samples})

    def held(self) -> dict[str, int]:
        """What its requests hold at this moment: as much of it as can be seen from here."""
        health = self.health()
        seen = {"running": health["running"], "waiting": health["waiting"]}
        if self.pid is not None:
            now = vitals((self.pid,))
            seen |= {"files": now.files, "threads": now.threads}
            if self.probes is not None:
                seen["tasks"] = probe(self.probes, self.pid)["tasks"]
                seen["rows"] = sum(probe(self.probes, pid)["rows"] for pid in engines(self.pid))
        return seen


@contextmanager
def target(flags: Sequence[str], url: str | None = None, pid: int | None = None) -> Iterator[Target]:
    """A server with these flags of `lyre serve`, ready; or the one at `url`. ServerFailed."""
    if url is not None:
        yield Target(url, pid)
        return
    with tempfile.TemporaryDirectory(prefix="probes-") as folder, OwnServer(flags, MODULE, {FOLDER: folder}) as server:
        server.wait_ready()
        yield Target(server.url, server.pid, server, Path(folder))


def add_target(parser: argparse.ArgumentParser, own: bool = False) -> None:
    """The arguments that say which server; `own`: only one of our own will do."""
    parser.add_argument("flags", nargs="*", help="of lyre serve, behind --")
    parser.set_defaults(url=None, pid=None)
    if own:
        return
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--pid", type=int, help="the process that speaks HTTP at --url, when it is on this machine")


def on_target(args: argparse.Namespace, work: Callable[[Target], int]) -> int:
    """Runs the benchmark; -> the exit status."""
    try:
        with target(args.flags, args.url, args.pid) as found:
            return work(found)
    except ServerFailed as error:
        print(f"the server did not start: {error}", file=sys.stderr)
        return 1
