"""What must hold between the manifests' numbers, their names, and the server that they start."""

import json
import re
import subprocess
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deploy.conftest import Watched
from tests.deploy.manifests import K8S, NAMES, Manifest, environment, of_kind, one, pod, render, server
from tests.deploy.tools import ROOT

TEARDOWN: Final = 15
"""Seconds for the end of the engine process and of Python, after the drain."""

COLD_START: Final = 120
"""Seconds: twice the longest start that docs/performance.md tells of, with hardly any kernel compiled."""

SLOWEST_VOLUME: Final = 50e6
"""Bytes a second that the weights may at least be read with; the network file systems that people use have more."""

WEIGHTS: Final = 15.2e9
"""Bytes of Orpheus-3B's 3.8 billion parameters in 32 bits, twice of what a GPU keeps."""

_SELECTING: Final = ("Deployment", "DaemonSet", "PodDisruptionBudget", "ServiceMonitor")

_READ: Final = """
import json, sys
from api.settings import load_settings
from api.speech import MAX_BODY
fields = ["host", "port", "metrics_port", "log_format", "max_concurrency", "drain_seconds", "first_chunk_timeout",
          "api_keys_file", "model", "codec", "device"]
answers = []
for environ in json.load(sys.stdin):
    settings = load_settings({}, environ)
    answers.append({name: getattr(settings, name) for name in fields} | {"max_body": MAX_BODY})
json.dump(answers, sys.stdout, default=str)
"""


@cache
def settings(lyre: Path) -> dict[str, dict[str, Any]]:
    """Overlay -> the settings that `lyre serve` reads in its pods. Unknown names and wrong values fail here."""
    environments = [environment(render(name), server(render(name))) for name in NAMES]
    python = lyre.with_name("python")
    done = subprocess.run(
        [python, "-c", _READ], cwd=ROOT, input=json.dumps(environments), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(NAMES, json.loads(done.stdout), strict=True))


def budget(probe: Manifest) -> int:
    """Seconds that a probe may fail before it has an effect."""
    return probe["periodSeconds"] * probe["failureThreshold"]


@pytest.mark.parametrize("name", NAMES)
def test_the_end_has_time(name: str, lyre: Path) -> None:
    """The sleep, the drain and the engine's end fit into the pod's grace."""
    spec = pod(render(name))
    sleep = server(render(name))["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = settings(lyre)[name]["drain_seconds"]
    assert sleep >= 5
    assert drain >= 60
    assert spec["terminationGracePeriodSeconds"] > sleep + drain + TEARDOWN
    # A hung server does not drain, yet its sleep runs.
    assert sleep < server(render(name))["livenessProbe"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", NAMES)
def test_the_start_has_time(name: str) -> None:
    """Weights from a slow volume and a cold start fit twice, and a rollout waits longer than its pods."""
    startup = budget(server(render(name))["startupProbe"])
    assert startup >= 2 * (WEIGHTS / SLOWEST_VOLUME + COLD_START)
    assert one(render(name), "Deployment")["spec"]["progressDeadlineSeconds"] > startup


@pytest.mark.parametrize("name", NAMES)
def test_probes(name: str) -> None:
    """Start and readiness ask whether it can speak, liveness whether it is alive; who is sick leaves soon."""
    container = server(render(name))
    paths = {
        probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {
        "startupProbe": "/health/ready",
        "readinessProbe": "/health/ready",
        "livenessProbe": "/health/live",
    }
    ports = {port["name"] for port in container["ports"]}
    assert {container[probe]["httpGet"]["port"] for probe in paths} <= ports
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert budget(container["readinessProbe"]) <= sleep
    assert container["livenessProbe"]["timeoutSeconds"] >= 5
    assert budget(container["livenessProbe"]) >= 30


def test_probe_paths_exist(watched: Watched) -> None:
    """On a live server: all three answer 200 without a key, and metrics have their own port."""
    probed = {
        server(render("h100"))[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    endpoint = one(render("monitoring"), "ServiceMonitor")["spec"]["endpoints"][0]
    assert watched.metrics_url.endswith(endpoint["path"])
    for url in (*(watched.process.url + path for path in probed), watched.metrics_url):
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("name", NAMES)
def test_settings(name: str, lyre: Path) -> None:
    """Every LYRE_* variable is a setting with a fitting value, and says what ports and volumes say."""
    read = settings(lyre)[name]
    container = server(render(name))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (read["host"], read["port"], read["metrics_port"]) == ("0.0.0.0", ports["http"], ports["metrics"])
    variables = environment(render(name), container)
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    for variable in ("LYRE_CACHE", "HF_HOME", "TRITON_CACHE_DIR"):
        assert variables[variable].startswith("/cache/")
    assert "readOnly" not in mounts["/cache"]
    assert "/tmp" in mounts
    assert read["log_format"] == "json"
    if "cpu" not in name:
        assert str(Path(read["api_keys_file"]).parent) in mounts
        assert "subPath" not in mounts[str(Path(read["api_keys_file"]).parent)]
        assert all(read[source].startswith("/models/") for source in ("model", "codec"))
        # Or a pod without its card would speak on its cores, far too slowly, and be found well.
        assert read["device"] == "cuda"
        assert mounts["/models"]["readOnly"]


def test_presets(lyre: Path) -> None:
    """The cards' overlays have their places."""
    places = {name: settings(lyre)[name]["max_concurrency"] for name in ("minimal-cpu", "mig", "h100", "h200")}
    assert places == {"minimal-cpu": 4, "mig": 16, "h100": 160, "h200": 256}


@pytest.mark.parametrize("name", NAMES)
def test_selectors(name: str) -> None:
    """Whatever selects pods finds the server's, or those that fetch weights, and none finds both."""
    objects = render(name)
    workloads = [each for kind in ("Deployment", "DaemonSet", "Job") for each in of_kind(objects, kind)]
    labels = {each["kind"]: each["spec"]["template"]["metadata"]["labels"] for each in workloads}
    selectors = [one(objects, "Service")["spec"]["selector"]]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in objects if each["kind"] in _SELECTING]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(objects, "NetworkPolicy")]
    selectors += [each["labelSelector"]["matchLabels"] for each in pod(objects)["topologySpreadConstraints"]]
    for selector in selectors:
        found = {kind for kind, own in labels.items() if selector.items() <= own.items()}
        expected = {"server": {"Deployment"}, "weights": {"Job", "DaemonSet"} & set(labels)}
        # Weights that come as an image need nobody to fetch them.
        assert found == expected[selector["app.kubernetes.io/component"]]
        assert found


@pytest.mark.parametrize("name", NAMES)
def test_references(name: str) -> None:
    """Every object, port and volume that is spoken of is there; Secrets are the operator's to make."""
    objects = render(name)
    known = {(each["kind"], each["metadata"]["name"]) for each in objects}
    text = json.dumps(objects)
    used = re.findall(r'"configMap(?:Ref|KeyRef)?": {[^}]*?"name": "([^"]+)"', text)
    assert {("ConfigMap", match) for match in used} <= known
    assert {("PersistentVolumeClaim", match) for match in re.findall(r'"claimName": "([^"]+)"', text)} <= known
    for target in [each["spec"]["scaleTargetRef"] for each in objects if "scaleTargetRef" in each.get("spec", {})]:
        assert ("Deployment", target["name"]) in known
        # Whoever scales it owns the number.
        assert "replicas" not in one(objects, "Deployment")["spec"]
    mounted = {mount["name"] for mount in server(objects)["volumeMounts"]}
    assert mounted <= {volume["name"] for volume in pod(objects)["volumes"]}
    assert set(re.findall(r'"secretName": "([^"]+)"', text)) <= {"lyre-api-keys", "lyre-hub-token", "lyre-tls"}


@pytest.mark.parametrize("name", NAMES)
def test_only_downloads_have_the_token(name: str) -> None:
    """The server neither holds the hub's token nor may ask the hub, and no secret is in a variable."""
    spec = pod(render(name))
    assert "lyre-hub-token" not in json.dumps(spec)
    assert environment(render(name), server(render(name)))["HF_HUB_OFFLINE"] == "1"
    assert "secretKeyRef" not in json.dumps(render(name))
    assert spec["enableServiceLinks"] is False
    ports = {port["port"] for rule in one(render(name), "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53}


def test_weights_are_pinned() -> None:
    """To commits, and an image of them to its digest."""
    lines = (K8S / "components/weights/weights.env").read_text(encoding="utf-8").splitlines()
    revisions = [line.partition("=")[2] for line in lines if "REVISION" in line]
    assert len(revisions) == 2
    assert all(re.fullmatch(r"[0-9a-f]{40}", revision) for revision in revisions)
    image = next(volume["image"] for volume in pod(render("h100+weights-image"))["volumes"] if "image" in volume)
    assert re.search(r"@sha256:[0-9a-f]{64}$", image["reference"])


def test_idle_limits_are_longer_than_silence(lyre: Path) -> None:
    """No proxy gives up a stream that the server has not."""
    silence = settings(lyre)["h100"]["first_chunk_timeout"]
    mix = "h200+weights-pvc+"
    haproxy = one(render(mix + "haproxy"), "Ingress")["metadata"]["annotations"]["haproxy.org/timeout-server"]
    nginx = one(render(mix + "nginx"), "Ingress")["metadata"]["annotations"]["nginx.org/proxy-read-timeout"]
    envoy = one(render("gateway"), "ClientTrafficPolicy")["spec"]["timeout"]["http"]["streamIdleTimeout"]
    for limit in (haproxy, nginx, envoy):
        assert limit.endswith("s")
        assert int(limit[:-1]) >= 2 * silence


def test_bodies_pass_nginx(lyre: Path) -> None:
    """What the server takes, nginx lets through."""
    ingress = one(render("h200+weights-pvc+nginx"), "Ingress")
    limit = ingress["metadata"]["annotations"]["nginx.org/client-max-body-size"]
    assert int(limit.removesuffix("k")) * 1024 >= settings(lyre)["h200+weights-pvc+nginx"]["max_body"]
