"""checkov finds nothing in the rendered overlays but what checkov-exceptions.yaml gives a reason for."""

import json
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.manifests import MIXES, OVERLAYS, render
from tests.deploy.tools import run

EXCEPTIONS: Final = Path(__file__).with_name("checkov-exceptions.yaml")
LOOKED_AT: Final = (
    *OVERLAYS,
    *("+".join(mix) for mix in MIXES if len(mix) > 3),
    "h100+weights-image",
    "mig+weights-node",
)


def audit(folder: Path) -> dict[str, Any]:
    """checkov's report on a folder of manifests. It asks nobody for policies."""
    arguments = [
        "--directory",
        folder,
        "--framework",
        "kubernetes",
        "--skip-download",
        "--output",
        "json",
        "--soft-fail",
    ]
    return json.loads(run("checkov", *arguments, "--quiet", "--compact"))


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Check -> the objects that fail it, as Kind.name."""
    folder = tmp_path_factory.mktemp("rendered")
    for name in LOOKED_AT:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(render(name)), encoding="utf-8")
    report = audit(folder)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] + report["summary"]["failed"] > 500
    found: dict[str, set[str]] = {}
    for failure in report["results"]["failed_checks"]:
        kind, _, name = failure["resource"].split(".")[:3]
        found.setdefault(failure["check_id"], set()).add(f"{kind}.{name}")
    return found


def exceptions() -> dict[str, dict[str, Any]]:
    """Check -> its objects and the reason."""
    return yaml.safe_load(EXCEPTIONS.read_text(encoding="utf-8"))


def test_nothing_unexplained(findings: dict[str, set[str]]) -> None:
    """Every failed check is an exception, for the objects that it names, and every exception still is one."""
    assert findings == {check: set(entry["objects"]) for check, entry in exceptions().items()}


def test_reasons() -> None:
    """Each exception says why."""
    assert all(len(entry["reason"]) > 40 for entry in exceptions().values())


def test_the_audit_finds(tmp_path: Path) -> None:
    """A container that may do all is found."""
    (pod,) = yaml.safe_load_all(
        "{apiVersion: v1, kind: Pod, metadata: {name: bad}, spec: {containers: [{name: bad, image: bad, "
        "securityContext: {privileged: true}}]}}"
    )
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(pod), encoding="utf-8")
    failed = {failure["check_id"] for failure in audit(tmp_path)["results"]["failed_checks"]}
    assert {"CKV_K8S_16", "CKV_K8S_22", "CKV_K8S_23"} <= failed
