"""Everything that can be rendered is, and is what Kubernetes and the operators' own types accept."""

import json
import re
import shutil
import textwrap
import tomllib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from tests.deploy.crds import SCHEMAS
from tests.deploy.manifests import MIXES, NAMES, OVERLAYS, Manifest, components, one, render
from tests.deploy.tools import DEPLOY, ROOT, run

MODELS = {"ScaledObject": ScaledObject, "ServiceMonitor": ServiceMonitor, "PrometheusRule": PrometheusRule}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
OLDEST, NEWEST = "1.31", "1.37"


def check(each: Manifest, version: str) -> None:
    """Raises for what a cluster of that version would refuse, and for every field that it would ignore."""
    if model := MODELS.get(each["kind"]):
        each = _as_typed(each)
        # The types take unknown fields and drop them: what comes out again must be what went in.
        assert model.model_validate(each).model_dump(by_alias=True, exclude_unset=True, mode="json") == each
    elif schema := SCHEMAS.get(each["kind"]):
        jsonschema.validate(each, schema)
    else:
        # A kind that nobody knows raises as well.
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_valid(name: str) -> None:
    """In the oldest version that the manifests support and in the newest."""
    for each in render(name):
        check_once(json.dumps(each))


@cache
def check_once(text: str) -> None:
    """Most objects are the same in most overlays."""
    for version in (OLDEST, NEWEST):
        check(json.loads(text), version)


def test_everything_is_rendered() -> None:
    """No component is left out of the mixes; `weights` is part of two."""
    rendered = {part for mix in MIXES for part in mix}
    assert rendered | {"weights"} == components()
    assert set(OVERLAYS) == {"minimal-cpu", "h100", "h200", "mig", "monitoring", "gateway", "keda"}


@pytest.mark.parametrize("name", NAMES)
def test_one_namespace_and_no_name_twice(name: str) -> None:
    """All objects are in the overlay's namespace, and each is there once."""
    objects = render(name)
    known = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(known) == len(set(known))
    assert {each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"} == {"lyre"}


@pytest.mark.parametrize("name", NAMES)
def test_images_are_of_this_version(name: str) -> None:
    """Every container runs the one image, with the version's tag."""
    kind = "cpu" if "cpu" in name else "cuda"
    images = re.findall(r'"image": "([^"]+)"', json.dumps(render(name)))
    assert images
    assert set(images) == {f"lyre:{VERSION}-{kind}"}


def test_the_overlay_in_the_docs(tmp_path: Path) -> None:
    """What docs/operations.md tells people to write can be rendered, and pins every container to their image."""
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    block, monitoring = map(textwrap.dedent, re.findall(r"```yaml\n(.+?)```", text, re.DOTALL))
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    overlay = tmp_path / "deploy/k8s/overlays/yours"
    overlay.mkdir()
    digest = "sha256:" + 64 * "1"
    (overlay / "kustomization.yaml").write_text(block.replace("sha256:...", digest) + monitoring, encoding="utf-8")
    rendered = run("kubectl", "kustomize", overlay)
    images = re.findall(r"^ +(?:- )?image: (.+)$", rendered, re.MULTILINE)
    assert set(images) == {f"registry.example.com/lyre@{digest}"}
    objects = list(yaml.safe_load_all(rendered))
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert one(objects, kind)["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    urls, own = _runbooks(objects), _runbooks(render("keda"))
    assert urls == [f"https://git.example.com/lyre/blob/main/{url}" for url in own]
    assert not [each for each in objects if "runbook" in each["metadata"]["name"]]


def _runbooks(objects: Iterable[Manifest]) -> list[str]:
    groups = one(objects, "PrometheusRule")["spec"]["groups"]
    return [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]]


def _as_typed(each: Manifest) -> Manifest:
    """Without what is newer than the types: a fallback's behaviour came with KEDA 2.17, they are of 2.16."""
    each = _copy(each)
    if each["kind"] == "ScaledObject":
        assert each["spec"]["fallback"].pop("behavior") in ("static", "currentReplicasIfHigher")
    return each


def _typo(each: Manifest) -> None:
    each["spec"]["template"]["spec"]["terminationGraceSeconds"] = 210


def _wrong_type(each: Manifest) -> None:
    each["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = "210s"


def _unknown_kind(each: Manifest) -> None:
    each["kind"] = "Deploiment"


@pytest.mark.parametrize("spoil", [_typo, _wrong_type, _unknown_kind])
def test_the_check_refuses(spoil: Callable[[Manifest], None]) -> None:
    """The check can fail."""
    deployment = _copy(one(render("minimal-cpu"), "Deployment"))
    spoil(deployment)
    with pytest.raises((kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)):
        check(deployment, NEWEST)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("ScaledObject", ("spec", "cooldownPeriods"), 900),
        ("ScaledObject", ("spec", "minReplicaCount"), "two"),
        ("ServiceMonitor", ("spec", "endpoints", 0, "intervall"), "10s"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "annotation"), {}),
        ("HTTPRoute", ("spec", "rules", 0, "timeouts", "requests"), "0s"),
        ("BackendTrafficPolicy", ("spec", "retry", "retryOn", "triggers"), ["503"]),
        ("ClientTrafficPolicy", ("spec", "timeout", "http", "streamIdleTimeout"), 60),
        ("Gateway", ("spec", "listeners", 0, "port"), 0),
    ],
)
def test_the_check_refuses_in_custom_kinds(kind: str, path: tuple[Any, ...], value: Any) -> None:
    """A wrong name or value in them is found as well."""
    each = _copy(one(render("keda"), kind))
    inside: Any = each
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    with pytest.raises((ValueError, AssertionError, jsonschema.ValidationError)):
        check(each, NEWEST)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value
