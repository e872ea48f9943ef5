"""Lyre on Modal: `modal deploy deploy/modal/app.py`. docs/modal.md tells what to make there first.

Importing it talks to nobody. The containers run the same server from the same locked packages as the image does.
"""

import os
import re
import sys
from pathlib import Path

import modal
from choices import EXIT_SECONDS, PORT, PREFIX, STOP_SECONDS, choose, server_settings
from download import fetch
from replica import end_container, start_replica
from smoke import check, wait_ready

START_SECONDS = 900
"""A first start compiles kernels; with a warm cache a start takes a small part of this."""

chosen = choose(os.environ)
# In a container they are the environment already, keys among them.
settings = server_settings(os.environ, chosen) if modal.is_local() else {}
# The containers read this file again and must come to the same.
choices = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}


def container_image() -> modal.Image:
    """The Dockerfile's image in Modal's terms: its base, its lock, its sources."""
    root = Path(__file__).resolve().parents[2]
    base = re.search(r"^ARG BASE=(\S+)$", (root / "deploy/Dockerfile").read_text(), re.MULTILINE)
    uv = re.search(r"^uv==(\S+)", (root / "deploy/requirements-build.lock").read_text(), re.MULTILINE)
    if base is None or uv is None:
        raise ValueError("deploy/Dockerfile and its locks name no base, or no uv")
    image = (
        modal.Image.from_registry(base[1])
        .apt_install("gcc", "libc6-dev")
        .uv_pip_install(
            requirements=[str(root / "deploy/requirements.lock")],
            extra_options="--require-hashes",
            uv_version=uv[1],
        )
        .env({"PYTHONPATH": "/app", "HF_HOME": "/cache/huggingface", "TRITON_CACHE_DIR": "/cache/lyre/triton"})
    )
    for folder in ("api", "benchmarks", "engine", "schemas", "demo/checkpoint"):
        image = image.add_local_dir(root / folder, f"/app/{folder}", ignore=["**/__pycache__", "**/*.pyc"])
    return image.add_local_python_source("choices", "download", "replica", "smoke")


app = modal.App("lyre")
image = container_image() if modal.is_local() else modal.Image.debian_slim()
# Weights and compiled kernels: written once, read by every container that starts later.
cache = modal.Volume.from_name("lyre-cache", create_if_missing=True)
keys = modal.Secret.from_name(chosen.secret, required_keys=["LYRE_API_KEYS"])


@app.server(
    image=image,
    gpu=chosen.gpu.split(",") if "," in chosen.gpu else chosen.gpu,
    env={**choices, **settings, "HF_HUB_OFFLINE": "1"},
    secrets=[keys] if chosen.needs_keys else [],
    volumes={"/cache": cache},
    cpu=8.0,
    memory=32 * 1024,
    port=PORT,
    unauthenticated=chosen.unauthenticated,
    target_concurrency=chosen.target,
    max_concurrency=chosen.streams,
    min_containers=chosen.min_containers,
    max_containers=chosen.max_containers,
    buffer_containers=chosen.buffer_containers,
    scaleup_window=5,
    scaledown_window=chosen.scaledown_window,
    startup_timeout=START_SECONDS,
    exit_grace_period=EXIT_SECONDS,
    routing_region=chosen.routing_region,
    compute_region=chosen.region or None,
    cloud=chosen.cloud or None,
    nonpreemptible=chosen.nonpreemptible,
    enable_memory_snapshot=chosen.snapshot,
    experimental_options={"enable_gpu_snapshot": True} if chosen.snapshot else None,
)
class Lyre:
    """One container: one GPU, one `lyre serve`."""

    @modal.enter(snap=chosen.snapshot)
    def start(self) -> None:
        """Return when it speaks; whatever this raises fails the container's start."""
        self.replica = start_replica(os.environ, chosen.needs_keys, START_SECONDS - 30, end_container)

    @modal.exit()
    def stop(self) -> None:
        """Running requests are spoken to their end."""
        code = self.replica.stop(STOP_SECONDS)
        if code != 0:
            raise RuntimeError(f"lyre serve ended with exit code {code}")


@app.function(
    image=image,
    env={name: settings[name] for name in settings if "MODEL" in name or "CODEC" in name or "REVISION" in name},
    secrets=[modal.Secret.from_name("huggingface", required_keys=["HF_TOKEN"])],
    volumes={"/cache": cache},
    cpu=4.0,
    memory=8 * 1024,
    timeout=3600,
)
def weights() -> None:
    """`modal run deploy/modal/app.py::weights`: the pinned revisions onto the Volume. The server never downloads."""
    fetch(os.environ)
    cache.commit()


@app.local_entrypoint()
def smoke(at_once: int = chosen.target, most_first_audio: float = 1.0, most_real_time_factor: float = 1.0) -> None:
    """`modal run deploy/modal/app.py`: a fresh replica speaks some texts; exits with 1 unless all is well.

    `at_once` texts together, first audio within `most_first_audio` seconds from here. The key is taken from SMOKE_KEY,
    Modal's tokens from MODAL_PROXY_KEY and MODAL_PROXY_SECRET.
    """
    named = {"api-key": "SMOKE_KEY", "modal-key": "MODAL_PROXY_KEY", "modal-secret": "MODAL_PROXY_SECRET"}
    headers = {header: os.environ[name] for header, name in named.items() if name in os.environ}
    url = Lyre.get_url()
    assert url is not None, "Modal gave the server no address"
    wait_ready(url, headers, START_SECONDS)
    table, wrong = check(url, headers, at_once, most_first_audio, most_real_time_factor)
    sys.stdout.write("\n".join([table, *wrong, ""]))
    if wrong:
        sys.exit(1)
