"""The script that fetches weights, and the pods that wait for it: run here, with a stand-in for the hub's command."""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.manifests import K8S, environment, pod, render, server
from tests.deploy.tools import need

SCRIPT: Final = K8S / "components/weights/download.sh"
PATIENCE: Final = 60.0

STAND_IN: Final = """#!/bin/sh
# Notes what it was asked, and brings one file, or breaks off.
echo "$@" >> "$NOTES"
while [ $# -gt 0 ]; do
  [ "$1" = --local-dir ] && folder="$2"
  shift
done
mkdir -p "$folder" && touch "$folder/config.json"
[ -z "$BREAKS" ]
"""


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """The pods' own variables, with folders of this test and `hf` put in the hub's place."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "hf").write_text(STAND_IN, encoding="utf-8")
    (binaries / "hf").chmod(0o755)
    (init,) = pod(render("h100"))["initContainers"]
    own = environment(render("h100"), init)
    folders = {"MODELS": str(tmp_path / "models"), "NOTES": str(tmp_path / "notes"), "BREAKS": ""}
    return own | folders | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}


def fetch(variables: dict[str, str]) -> int:
    """The exit code of the script."""
    return subprocess.run([need("sh"), SCRIPT], env=variables, timeout=PATIENCE, check=False).returncode


def asked(variables: dict[str, str]) -> list[list[str]]:
    """What the hub was asked for, each as words."""
    notes = Path(variables["NOTES"])
    return [line.split() for line in notes.read_text(encoding="utf-8").splitlines()] if notes.exists() else []


def test_fetches_both_at_their_commits_once(variables: dict[str, str]) -> None:
    """Each repository at its commit into its own folder, which is marked; the next time nothing is asked."""
    assert fetch(variables) == 0
    expected = [(variables[name], variables[f"{name}_REVISION"]) for name in ("MODEL", "CODEC")]
    assert [(words[1], words[words.index("--revision") + 1]) for words in asked(variables)] == expected
    for repository, revision in expected:
        assert (Path(variables["MODELS"]) / revision / repository / "complete").exists()
    assert fetch(variables) == 0
    assert len(asked(variables)) == 2


def test_servers_read_what_was_fetched(variables: dict[str, str]) -> None:
    """The same folders, and the model's is called as callers call it, however the weights come."""
    assert fetch(variables) == 0
    own = environment(render("h100"), server(render("h100")))
    for name in ("LYRE_MODEL", "LYRE_CODEC"):
        assert Path(own[name].replace("/models", variables["MODELS"], 1), "complete").exists()
    image = environment(render("h100+weights-image"), server(render("h100+weights-image")))
    names = {Path(each["LYRE_MODEL"]).name for each in (own, image)}
    assert names == {variables["MODEL"].partition("/")[2]}


def test_broken_off_is_not_complete(variables: dict[str, str]) -> None:
    """A download that fails fails the pod and leaves no mark; the next one goes on in the same folder."""
    assert fetch(variables | {"BREAKS": "yes"}) != 0
    assert list(Path(variables["MODELS"]).rglob("complete")) == []
    assert list(Path(variables["MODELS"]).rglob("config.json")) != []
    assert fetch(variables) == 0
    assert len(list(Path(variables["MODELS"]).rglob("complete"))) == 2


def test_pods_wait_for_both(variables: dict[str, str], tmp_path: Path) -> None:
    """The init container ends when both marks are there, and not before."""
    (init,) = pod(render("h100"))["initContainers"]
    command = [
        part.replace("/models/", f"{tmp_path}/models/").replace("sleep 5", "sleep 0.1") for part in init["command"]
    ]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert "waiting for" in waiting.stdout.readline()
        model = tmp_path / "models" / variables["MODEL_REVISION"] / variables["MODEL"]
        model.mkdir(parents=True)
        (model / "complete").touch()
        assert "waiting for" in waiting.stdout.readline()
        assert waiting.poll() is None
        assert fetch(variables) == 0
        waiting.stdout.read()
        assert waiting.wait(PATIENCE) == 0


def test_the_hubs_command_has_these_options(lyre: Path, variables: dict[str, str]) -> None:
    """In the version that the server is installed with."""
    assert fetch(variables) == 0
    used = {word for words in asked(variables) for word in words if word.startswith("--")}
    said = subprocess.run(
        [lyre.with_name("python"), "-m", "huggingface_hub.cli.hf", "download", "--help"],
        env=os.environ | {"COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout
    assert used
    assert all(f"{option} " in said for option in used)
