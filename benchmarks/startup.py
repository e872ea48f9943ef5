"""From the start of `lyre serve` to its readiness and to the first audio that a client gets, caches cold and warm.

    python -m benchmarks.startup --times 3 -- --model orpheus-3b --load-format dummy

What follows `--` are flags of `lyre serve`. The cold start has empty folders for compiled kernels (Lyre's own, Triton's
and CUDA's), the warm ones find what it left; the operating system's cache of files is left as it is. Seconds: `ready`
until /health/ready says 200, `first_audio` until the first bytes of the first request after that, `audio_after` between
the two, `stages` where the time went. A table for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.load import Share, take
from benchmarks.report import print_document, print_table
from benchmarks.server import OwnServer, ServerFailed


def start(flags: Sequence[str], caches: Path) -> dict[str, Any]:
    """One start to the first audio. ServerFailed, or SystemExit without speech."""
    folders = {
        "LYRE_CACHE": caches / "lyre",
        "TRITON_CACHE_DIR": caches / "triton",
        "CUDA_CACHE_PATH": caches / "cuda",
        "TORCHINDUCTOR_CACHE_DIR": caches / "inductor",
    }
    with OwnServer(flags, environment={name: str(folder) for name, folder in folders.items()}) as server:
        ready = server.wait_ready()
        asked = Share(
            url=server.url, key=None, texts=("Hello there!",), voices=("alloy",), index=0, of=1,
            begin_at=perf_counter(), requests=1, seconds=1.0,
        )  # fmt: skip
        outcome = take(asked)
        if outcome.errors:
            raise SystemExit(f"no speech after the start: {next(iter(outcome.errors))}")
        heard = outcome.heard[0]
        first = heard.began + heard.first - server.began
        stages = server.stages
    return {
        "ready": round(ready, 2),
        "first_audio": round(first, 2),
        "audio_after": round(heard.first, 3),
        "stages": ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="warm starts, after the cold one")
    parser.add_argument("flags", nargs="*", help="of lyre serve, behind --")
    args = parser.parse_args(arguments)
    rows = []
    try:
        with tempfile.TemporaryDirectory(prefix="lyre-startup-") as caches:
            for number in range(args.times + 1):
                rows.append({"caches": "warm" if number else "cold", **start(args.flags, Path(caches))})
                print(f"{rows[-1]['caches']}: ready after {rows[-1]['ready']} s", file=sys.stderr, flush=True)
    except ServerFailed as error:
        print(f"the server did not start: {error}", file=sys.stderr)
        return 1
    print_table(rows)
    print_document(rows, flags=args.flags)
    return 0


if __name__ == "__main__":
    sys.exit(main())
