"""What kustomize makes of the overlays, and of every component that somebody may put beside another."""

import os
import re
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.deploy.tools import DEPLOY, run

Manifest = dict[str, Any]

K8S: Final = DEPLOY / "k8s"
OVERLAYS: Final = tuple(sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml")))
CARDS: Final = ("h100", "h200", "mig")
WEIGHTS: Final = ("weights-pvc", "weights-node", "weights-image")
EXTRAS: Final = ("monitoring", "gateway", "haproxy", "nginx", "keda", "hpa", "no-spare-gpu")
MIXES: Final = (
    *((card, weights) for card in CARDS for weights in WEIGHTS),
    *(("h200", "weights-pvc", extra) for extra in EXTRAS),
    ("h100", "weights-node", "monitoring", "haproxy", "hpa", "no-spare-gpu"),
    ("mig", "weights-image", "monitoring", "nginx", "keda"),
    ("cpu", "monitoring", "gateway", "keda"),
)
"""Components that are rendered together, beside what the overlays choose."""

NAMES: Final = (*OVERLAYS, *("+".join(mix) for mix in MIXES))
"""All that can be rendered."""

_REFERENCE: Final = re.compile(r"\$\((\w+)\)")


@cache
def render(name: str) -> tuple[Manifest, ...]:
    """The objects that `kubectl apply -k` would send for an overlay, or for components joined by +."""
    if name in OVERLAYS:
        return _kustomize(K8S / "overlays" / name)
    with tempfile.TemporaryDirectory() as folder:
        _write_overlay(Path(folder), name.split("+"))
        return _kustomize(Path(folder))


def components() -> set[str]:
    """Every component there is, as it is named in a mix."""
    return {path.parent.name for path in K8S.glob("components/*/kustomization.yaml")} | {"monitoring"}


def of_kind(objects: Iterable[Manifest], kind: str) -> list[Manifest]:
    """All objects of a kind."""
    return [each for each in objects if each["kind"] == kind]


def one(objects: Iterable[Manifest], kind: str, name: str = "lyre") -> Manifest:
    """The only object of a kind and a name."""
    (found,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"] == name]
    return found


def pod(objects: Iterable[Manifest]) -> Manifest:
    """The spec of the server's pods."""
    return one(objects, "Deployment")["spec"]["template"]["spec"]


def server(objects: Iterable[Manifest]) -> Manifest:
    """The server's container."""
    (container,) = pod(objects)["containers"]
    return container


def environment(objects: tuple[Manifest, ...], container: Manifest) -> dict[str, str]:
    """A container's variables as the kubelet would set them."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        variables |= one(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    explicit: dict[str, str] = {}
    for entry in container.get("env", ()):
        if "value" in entry:
            # Only variables of the same list are put in, and only earlier ones.
            value = _REFERENCE.sub(lambda match: explicit.get(match[1], match[0]), entry["value"])
        else:
            key = entry["valueFrom"]["configMapKeyRef"]
            value = one(objects, "ConfigMap", key["name"])["data"][key["key"]]
        explicit[entry["name"]] = value
    return variables | explicit


def _write_overlay(folder: Path, parts: list[str]) -> None:
    def relative(path: Path) -> str:
        return os.path.relpath(path, folder.resolve())

    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "lyre",
        "resources": [relative(K8S / "base")],
        "components": [
            relative(DEPLOY / "monitoring" if part == "monitoring" else K8S / "components" / part) for part in parts
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")


def _kustomize(folder: Path) -> tuple[Manifest, ...]:
    return tuple(yaml.safe_load_all(run("kubectl", "kustomize", folder)))
