"""`make test-image`: the CPU image, built without a registry of images, and run until it has spoken.

Its base is a Debian that debootstrap makes: it has the official base's role and not its bytes. Needs root, Debian's
buildah and debootstrap, and a package index for pip; skipped, with the reason, without.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import urllib.request
import wave
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from tests.clients.lyre_process import PATIENCE, eventually
from tests.deploy.dockerfile import ROOT, read_lock
from tests.deploy.root import RunningRoot, image_config

BASE = "localhost/lyre-test-base:bookworm"
IMAGE = "localhost/lyre-test:cpu"
PORT = 38_443
LARGEST = 2.2e9
"""Bytes that the unpacked image may take: what it took when this was written, and a tenth more."""

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# Building is most of it.
pytestmark = pytest.mark.timeout(3000)


def _missing() -> str | None:
    if os.geteuid() != 0:
        return "building an image here needs root"
    for tool in ("buildah", "debootstrap", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed: apt-get install buildah debootstrap"
    return None


def buildah(*arguments: str | Path) -> str:
    """What it prints; fails the test with all that it said."""
    done = subprocess.run(
        ["buildah", *map(str, arguments)],
        env=os.environ | {"BUILDAH_ISOLATION": "chroot"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout.strip()


def made_base(folder: Path) -> None:
    """A Debian with Python, under BASE; kept from one run to the next."""
    known = subprocess.run(["buildah", "inspect", "--type", "image", BASE], capture_output=True, check=False)
    if known.returncode == 0:
        return
    root = folder / "debian"
    packages = "--include=ca-certificates,python3,python3-venv,libpython3-dev"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", root], check=True, stdout=subprocess.DEVNULL
    )
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, root, "/")
    buildah("commit", "--quiet", container, BASE)
    buildah("rm", container)
    shutil.rmtree(root)


def link_folders() -> list[Path]:
    """Folders of this machine in which pip looks for packages beside its index."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = [line.partition("=")[2].strip("'\"") for line in listed.splitlines() if "find-links" in line]
    return sorted({Path(word) for words in found for word in words.split() if Path(word).is_dir()})


def installers(folder: Path) -> list[str]:
    """Mounts that let pip and uv in the build reach packages as pip does here; nothing of it stays in the image."""
    folders = [str(path) for path in link_folders()]
    (folder / "pip.conf").write_text(f"[global]\ncert = {_CERTIFICATES}\n")
    (folder / "uv.toml").write_text(f"native-tls = true\n[pip]\nfind-links = {json.dumps(folders)}\n")
    mounts = [(folder / "pip.conf", "/etc/pip.conf"), (folder / "uv.toml", "/etc/uv/uv.toml")]
    mounts += [(_CERTIFICATES, str(_CERTIFICATES)), *((name, name) for name in folders)]
    return [f"--volume={source}:{target}:ro" for source, target in mounts]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The built root; its image is removed at the end."""
    if reason := _missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("image")
    made_base(folder)
    links = installers(folder)
    # PyTorch's own index, or where pip here has a folder with builds of torch for the CPU, that one.
    backend = "" if any(any(path.glob("torch-*+cpu-*.whl")) for path in link_folders()) else "cpu"
    arguments = [f"--build-arg=BASE={BASE}", f"--build-arg=TORCH_BACKEND={backend}", "--build-arg=VERSION=test"]
    buildah(
        "build", "--pull=never", "--format=docker", "--layers=false", "--target=cpu", "--file=deploy/Dockerfile",
        f"--tag={IMAGE}", *links, *arguments, ".",
    )  # fmt: skip
    container = buildah("from", "--pull=never", IMAGE)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)
        buildah("rmi", IMAGE)


@pytest.fixture(scope="module")
def config(image: Path) -> dict[str, Any]:
    """What the image tells a runtime."""
    return image_config(buildah("inspect", "--type", "image", IMAGE))


@pytest.fixture(scope="module")
def running(image: Path, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRoot]:
    """The image's command with a new volume, when it is healthy."""
    volume = tmp_path_factory.mktemp("volume")
    # As a runtime makes a new volume: it takes the owner from the image.
    os.chown(volume, (image / "cache").stat().st_uid, (image / "cache").stat().st_gid)
    log = tmp_path_factory.mktemp("log") / "output"
    running = RunningRoot(image, config, volume, log, LYRE_PORT=str(PORT))
    try:
        assert eventually(lambda: running.ended or "ready after" in running.log), running.log
        yield running
    finally:
        running.kill()


def test_the_image_is_labelled_and_not_larger_than_it_was(image: Path, config: dict[str, Any]) -> None:
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["tini", "--", "lyre"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][-1] == "/app/bin/healthcheck.py"
    assert config["Labels"]["org.opencontainers.image.version"] == "test"
    size = int(subprocess.run(["du", "-sb", image], capture_output=True, text=True, check=True).stdout.split()[0])
    sys.stdout.write(f"\n{size / 1e9:.2f} GB unpacked\n")
    assert size < LARGEST


def test_it_holds_what_is_locked_and_nothing_that_is_private(image: Path) -> None:
    (packages,) = (image / "opt/lyre/lib").glob("python3.*/site-packages")
    locked = read_lock("requirements-cpu.lock")
    held = {canonicalize_name(found.name): found.version for found in distributions(path=[str(packages)])}
    assert {name for name, version in held.items() if version not in locked[name]} == set()
    assert {path.name for path in (image / "app").iterdir()} == {
        "api", "benchmarks", "bin", "demo", "engine", "schemas"
    }  # fmt: skip
    assert not list((image / "app").rglob(".*"))
    assert not list((image / "cache").iterdir())


def test_it_speaks_as_nobody_special_with_a_read_only_root(running: RunningRoot, image: Path) -> None:
    assert not running.ended, running.log
    assert "native kernels" in running.log
    status = Path(f"/proc/{running.first}/status").read_text()
    assert "\nUid:\t10001\t10001\t10001\t10001\n" in status
    assert running.inside("touch", "/app/x").returncode != 0
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/audio/speech",
        data=json.dumps(
            {"model": "tts-1", "voice": "tara", "input": "Hello there, how are you?", "response_format": "wav"}
        ).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert answer.status == 200
        sound = answer.read()
    # A stream's header cannot know its length: what follows it is what counts.
    with wave.open(io.BytesIO(sound)) as opened:
        assert (opened.getframerate(), opened.getnchannels(), opened.getsampwidth()) == (24000, 1, 2)
        frames = opened.readframes(len(sound))
    seconds = len(frames) / 48_000
    assert 0.5 < seconds < 6
    assert max(abs(x) for x in memoryview(frames[: len(frames) // 2 * 2]).cast("h")) > 1000


def test_its_healthcheck_is_content_and_other_commands_can_be_run_beside_it(running: RunningRoot) -> None:
    checked = running.inside("python", "/app/bin/healthcheck.py")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert '"ready"' in checked.stdout
    version = running.inside("lyre", "--version")
    assert version.returncode == 0, version.stderr
    assert version.stdout.startswith("lyre, version")


def test_sigterm_to_process_1_drains_and_ends_with_0(running: RunningRoot) -> None:
    assert running.stop(PATIENCE) == 0
    assert "draining" in running.log
