"""deploy/modal: what Modal would be told to run, and what its containers would do, run here."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.deploy.control_plane import ControlPlane
from tests.deploy.modal_app import APP, PATIENCE, ROOT, clean_environ, environment_of, hooks, load, modal_command
from tests.deploy.server import server_python, settings_of

KEY = "sk-lyre-0123456789abcdef"


@pytest.fixture(scope="module")
def plane() -> Any:
    """The stand-in after one deployment with nothing chosen."""
    with ControlPlane() as plane:
        done = modal_command(plane, "deploy")
        assert done.returncode == 0, done.stdout + done.stderr
        yield plane


@pytest.fixture
def environ(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the server's container would find, but for the weights, the port and the device of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    here = {
        "LYRE_PORT": str(port),
        "LYRE_HOST": "127.0.0.1",
        "LYRE_DEVICE": "cpu",
        "LYRE_CACHE": str(tmp_path_factory.getbasetemp() / "kernels"),
        "LYRE_API_KEYS": KEY,
        "PYTHONPATH": str(ROOT),
    }
    return clean_environ() | without_weights(environment_of(plane, 0)) | here


def without_weights(environ: dict[str, str]) -> dict[str, str]:
    """The same for the demo voice."""
    weights = {"LYRE_MODEL", "LYRE_REVISION", "LYRE_CODEC", "LYRE_CODEC_REVISION"}
    assert weights < environ.keys()
    return {name: value for name, value in environ.items() if name not in weights}


def server_function(plane: ControlPlane) -> Any:
    """The one of the deployed functions that serves."""
    (found,) = [call.function for call in plane.calls["FunctionCreate"] if call.function.is_server]
    # Several kinds of GPU make several alternatives of one function.
    return found


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> ModuleType:
    """deploy/modal/replica.py, whose command runs in the server's own Python."""
    monkeypatch.syspath_prepend(str(APP.parent))
    module = importlib.import_module("replica")
    monkeypatch.setattr(module, "COMMAND", (server_python(pytestconfig), *module.COMMAND[1:]))
    return module


def test_importing_the_app_opens_no_connection() -> None:
    script = (
        "import runpy, sys\n"
        "def hook(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'): raise AssertionError(event)\n"
        "sys.addaudithook(hook)\n"
        f"sys.path.insert(0, {str(APP.parent)!r})\n"
        f"assert runpy.run_path({str(APP)!r})['app'].name == 'lyre'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=clean_environ(), cwd=ROOT, timeout=PATIENCE, check=False)
    assert done.returncode == 0


def test_a_deployment_asks_for_one_warm_h100_with_sixteen_streams_and_time_to_drain(plane: ControlPlane) -> None:
    function = server_function(plane)
    assert (function.resources.gpu_config.gpu_type, function.resources.gpu_config.count) == ("H100!", 1)
    scaler = function.autoscaler_settings
    assert (scaler.target_concurrency_float, function.max_concurrent_inputs) == (12.0, 16)
    assert (scaler.min_containers, scaler.buffer_containers, scaler.max_containers) == (1, 1, 10)
    http = function.http_config
    assert http.port == 8000
    assert http.startup_timeout >= 600
    drain = float(environment_of(plane, 0)["LYRE_DRAIN_SECONDS"])
    assert http.exit_grace_period > drain + 15
    assert not function.checkpointing_enabled


def test_weights_and_kernels_lie_on_a_volume_and_the_server_never_downloads(plane: ControlPlane) -> None:
    (mount,) = server_function(plane).volume_mounts
    assert mount.mount_path == "/cache"
    (volume,) = plane.calls["VolumeGetOrCreate"]
    assert volume.deployment_name == "lyre-cache"
    server, download = environment_of(plane, 0), environment_of(plane, 1)
    assert server["HF_HUB_OFFLINE"] == "1"
    assert server["LYRE_CACHE"].startswith("/cache/")
    assert "HF_HUB_OFFLINE" not in download
    # Both mean the same files.
    assert {name: server[name] for name in download} == download
    assert len(server["LYRE_REVISION"]) == len(server["LYRE_CODEC_REVISION"]) == 40


_FETCH = """
import json, os, sys
from engine.model import checkpoint
asked, folders = [], {os.environ["LYRE_MODEL"]: "demo/checkpoint/lm", os.environ["LYRE_CODEC"]: "demo/checkpoint/codec"}
def snapshot_download(source, revision, allow_patterns):
    asked.append([source, revision])
    return folders[source]
checkpoint.snapshot_download = snapshot_download
sys.path.insert(0, "deploy/modal")
from download import fetch
fetch(os.environ)
print(json.dumps(asked))
"""


def test_the_download_asks_the_hub_for_both_at_their_commits_and_keeps_them(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    """The function itself, with the hub's answers from here, in the server's own Python."""
    given, asked, kept = environment_of(plane, 1), [], []
    app = load("app", monkeypatch)

    def fetch(environ: dict[str, str]) -> None:
        command, variables = [server_python(pytestconfig), "-c", _FETCH], {**clean_environ(), **given}
        done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr.decode()
        asked.extend(json.loads(done.stdout))

    monkeypatch.setattr(app, "fetch", fetch)
    monkeypatch.setattr(app, "cache", SimpleNamespace(commit=lambda: kept.append(len(asked))))
    with pytest.warns(UserWarning, match="executing locally"):
        app.weights.local()
    expected = (("LYRE_MODEL", "LYRE_REVISION"), ("LYRE_CODEC", "LYRE_CODEC_REVISION"))
    assert asked == [[given[source], given[revision]] for source, revision in expected]
    assert kept == [2]


def test_who_is_let_through_by_modal_meets_the_servers_own_keys(plane: ControlPlane) -> None:
    assert server_function(plane).http_config.unauthenticated
    secrets = {call.deployment_name: list(call.required_keys) for call in plane.calls["SecretGetOrCreate"]}
    assert secrets["lyre-keys"] == ["LYRE_API_KEYS"]
    # The read token of the hub is the download's alone.
    assert secrets["huggingface"] == ["HF_TOKEN"]
    assert len(server_function(plane).secret_ids) == 2
    assert all("API_KEYS" not in name and "TOKEN" not in name for name in environment_of(plane, 0))


def test_the_image_is_the_dockerfiles(plane: ControlPlane) -> None:
    images = [call.image for call in plane.calls["ImageGetOrCreate"]]
    commands = [command for image in images for command in image.dockerfile_commands]
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    (base,) = [line.removeprefix("ARG BASE=") for line in dockerfile.splitlines() if line.startswith("ARG BASE=")]
    assert f"FROM {base}" in commands
    assert any("uv pip install" in command and "--require-hashes" in command for command in commands)
    locks = [file.data for image in images for file in image.context_files]
    assert (ROOT / "deploy/requirements.lock").read_bytes() in locks


def test_the_containers_settings_are_settings_of_the_server(plane: ControlPlane, pytestconfig: pytest.Config) -> None:
    given = environment_of(plane, 0)
    settings = settings_of(given, pytestconfig)
    assert (settings["host"], settings["port"]) == ("0.0.0.0", 8000)
    assert settings["model"] == given["LYRE_MODEL"]
    assert settings["max_concurrency"] == server_function(plane).max_concurrent_inputs
    assert settings["device"] == "cuda"


def test_a_model_insists_on_the_gpu_unless_devices_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = load("choices", monkeypatch)
    chosen = choices.choose({})
    for given, device in (({}, "cuda"), ({"LYRE_MODEL": ""}, None), ({"LYRE_DEVICES": "auto"}, None)):
        assert choices.server_settings(given, chosen).get("LYRE_DEVICE") == device


def test_what_is_chosen_is_deployed() -> None:
    with ControlPlane() as plane:
        done = modal_command(
            plane,
            "deploy",
            ON_MODAL_GPU="H200!",
            ON_MODAL_STREAMS="32",
            ON_MODAL_TARGET="24",
            ON_MODAL_MIN_CONTAINERS="0",
            ON_MODAL_AUTH="proxy",
            ON_MODAL_REGION="eu",
            ON_MODAL_ROUTING_REGION="eu-west",
            ON_MODAL_CLOUD="oci",
            ON_MODAL_NONPREEMPTIBLE="true",
            ON_MODAL_SNAPSHOT="true",
            LYRE_QUANTIZATION="fp8",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        function, given = server_function(plane), environment_of(plane, 0)
    assert function.resources.gpu_config.gpu_type == "H200!"
    assert (function.autoscaler_settings.target_concurrency_float, function.max_concurrent_inputs) == (24.0, 32)
    assert function.autoscaler_settings.min_containers == 0
    assert not function.http_config.unauthenticated
    assert list(function.http_config.proxy_regions) == ["eu-west"]
    assert function.cloud_provider_str.lower() == "oci"
    assert list(function.scheduler_placement.regions) == ["eu"]
    assert function.scheduler_placement.nonpreemptible
    assert function.checkpointing_enabled
    # Without keys of the server's own there is no Secret to fail on, and the containers know what was chosen.
    assert len(function.secret_ids) == 1
    assert given["LYRE_QUANTIZATION"] == "fp8"
    assert given["LYRE_MAX_CONCURRENCY"] == "32"
    assert given["ON_MODAL_SNAPSHOT"] == "true"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ON_MODAL_AUTH": "none"}, "ON_MODAL_AUTH"),
        ({"ON_MODAL_AUTH": ""}, "ON_MODAL_AUTH"),
        ({"ON_MODAL_SECRET": ""}, "ON_MODAL_SECRET"),
        ({"ON_MODAL_TARGET": "17"}, "ON_MODAL_TARGET"),
        ({"ON_MODAL_MAX_CONTAINERS": "0"}, "ON_MODAL_MAX_CONTAINERS"),
        ({"ON_MODAL_MIN_CONTAINERS": "one"}, "ON_MODAL_MIN_CONTAINERS"),
        ({"ON_MODAL_SNAPSHOT": "maybe"}, "ON_MODAL_SNAPSHOT"),
        ({"ON_MODAL_GPUS": "H100"}, "ON_MODAL_GPUS"),
        ({"LYRE_API_KEYS": KEY}, "Secret"),
        ({"LYRE_MODEL": "someone/finetune"}, "LYRE_REVISION"),
        ({"LYRE_REVISION": "main"}, "LYRE_REVISION"),
        ({"LYRE_DRAIN_SECONDS": "600"}, "LYRE_DRAIN_SECONDS"),
        ({"LYRE_PRESET": "h100"}, "ON_MODAL_STREAMS"),
    ],
)
def test_choices_that_cannot_be_meant_are_named(
    given: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = load("choices", monkeypatch)
    with pytest.raises(ValueError, match=says):
        choices.server_settings(given, choices.choose(given))


@pytest.mark.timeout(400)
def test_a_container_starts_asks_for_a_key_speaks_and_ends_with_0(
    environ: dict[str, str], replica: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name not in environ]:
        monkeypatch.delenv(name)
    app, smoke = load("app", monkeypatch), load("smoke", monkeypatch)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    container = app.Lyre._get_user_cls()()
    enter, leave = hooks(container)
    enter()
    try:
        url = f"http://127.0.0.1:{environ['LYRE_PORT']}"
        _, refused = smoke.check(url, {}, 1, PATIENCE, PATIENCE)
        assert len(refused) == 4
        assert all("status 401" in line for line in refused)
        # The command that checks a deployment, against this one.
        with ControlPlane(url) as plane:
            slow = [flag for name in ("first-audio", "real-time-factor") for flag in (f"--most-{name}", "100")]
            good = modal_command(plane, "run", "--at-once", "2", *slow, SMOKE_KEY=KEY)
            bad = modal_command(plane, "run", "--at-once", "2", *slow, SMOKE_KEY="sk-lyre-wrong")
    finally:
        leave()
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.count("of 2 ") == 2
    assert bad.returncode == 1
    assert "status 401" in bad.stdout


def test_a_container_that_should_ask_for_keys_and_has_none_does_not_start(
    environ: dict[str, str], replica: ModuleType
) -> None:
    with pytest.raises(PermissionError, match="LYRE_API_KEYS"):
        replica.start_replica(environ | {"LYRE_API_KEYS": " "}, True, PATIENCE, lambda code: None)


def test_a_server_that_cannot_start_fails_the_containers_start(environ: dict[str, str], replica: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="exit code"):
        replica.start_replica(environ | {"LYRE_MAX_CONCURRENCY": "none"}, True, PATIENCE, lambda code: None)


def test_a_server_that_dies_takes_its_container_along(environ: dict[str, str], replica: ModuleType) -> None:
    died, codes = threading.Event(), []

    def on_death(code: int) -> None:
        codes.append(code)
        died.set()

    running = replica.start_replica(environ, True, PATIENCE, on_death)
    os.kill(running._process.pid, signal.SIGKILL)
    assert died.wait(PATIENCE)
    assert codes == [-signal.SIGKILL]


def test_docs_name_every_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = load("choices", monkeypatch)
    text = Path(ROOT / "docs/modal.md").read_text()
    for name in choices.Choices.__dataclass_fields__:
        assert f"`ON_MODAL_{name.upper()}`" in text
