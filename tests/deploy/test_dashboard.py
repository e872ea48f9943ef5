"""The dashboard is what its script writes, asks only for what a server says, and a live server says it all."""

import importlib.util
import json
import re
import urllib.request
from typing import Any, Final

import pytest
import yaml

from tests.deploy.conftest import Watched
from tests.deploy.manifests import one, render
from tests.deploy.metrics import COUNTERS, GAUGES, HISTOGRAMS, INFO, LABELS, OURS, complaints, selectors
from tests.deploy.tools import DEPLOY, run

FILE: Final = DEPLOY / "monitoring/dashboard.json"
DASHBOARD: Final[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS: Final = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS: Final = [target["expr"] for panel in PANELS for target in panel["targets"]]


def plain(expression: str) -> str:
    """An expression with Grafana's variables filled in."""
    return expression.replace("$__rate_interval", "1m").replace("$namespace", "lyre").replace("$pod", ".*")


@pytest.fixture(scope="module")
def exposition(watched: Watched) -> str:
    """What a live server says after one request of each kind of end that is easily had."""
    body = json.dumps({"model": "tts-1", "voice": "tara", "input": "Good morning.", "response_format": "pcm"})
    request = urllib.request.Request(watched.process.base_url + "/audio/speech", body.encode(), method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert len(answer.read()) > 10_000
    with urllib.request.urlopen(watched.metrics_url, timeout=60) as answer:
        return answer.read().decode()


def test_is_what_the_script_writes() -> None:
    """`python deploy/monitoring/dashboard.py` after a change of its rows."""
    spec = importlib.util.spec_from_file_location("dashboard", FILE.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.text() == FILE.read_text(encoding="utf-8")


def test_is_applied() -> None:
    """As the ConfigMap that Grafana's sidecar looks for."""
    made = one(render("monitoring"), "ConfigMap", "lyre-dashboard")
    assert json.loads(made["data"]["dashboard.json"]) == DASHBOARD
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_rows() -> None:
    """All that an operator asks for has a row, and no panel lies on another."""
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Now", "Traffic and outcomes", "Latency", "Saturation", "Engine", "Audio", "Process"]
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions(expression: str) -> None:
    """Each is PromQL, asks only for what exists, and only for the chosen namespace and pods."""
    assert complaints(plain(expression)) == []
    chosen = [{matcher.name for matcher in selector.matchers.matchers} for selector in selectors(plain(expression))]
    assert chosen
    assert all({"namespace", "pod"} <= names for names in chosen)


def test_every_metric_is_shown() -> None:
    """Nothing is counted that nobody sees."""
    shown = {selector.name for expression in EXPRESSIONS for selector in selectors(plain(expression))}
    assert {*GAUGES, *COUNTERS, INFO, *(f"{name}_bucket" for name in HISTOGRAMS)} <= shown


def test_live_names(exposition: str) -> None:
    """Every metric that an alert, a panel or a scaler asks for is in a live server's answer."""
    said = set(re.findall(r"^([a-z_]+)(?:\{| )", exposition, re.MULTILINE))
    assert said >= OURS
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposition, re.MULTILINE))
    assert {types[name] for name in GAUGES} == {"gauge"}
    assert {types[name] for name in COUNTERS} == {"counter"}
    assert {types[name] for name in HISTOGRAMS} == {"histogram"}


def test_live_labels(exposition: str) -> None:
    """Labels have the names that are asked for, and values of the fixed lists only."""
    for metric, labels in LABELS.items():
        series = re.findall(rf"^{metric}\{{(.*)\}} ", exposition, re.MULTILINE)
        assert series, metric
        for line in series:
            pairs = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', line))
            assert set(pairs) == set(labels), metric
            assert all(pairs[name] in values for name, values in labels.items() if values is not None), line


def test_promtool_likes_the_exposition(exposition: str) -> None:
    """Names, units and help texts are as Prometheus wants them."""
    run("promtool", "check", "metrics", stdin=exposition)


def test_the_scalers_ask_for_what_exists() -> None:
    """KEDA's query, and the rule that prometheus-adapter makes the HPA's metric of."""
    (trigger,) = one(render("keda"), "ScaledObject")["spec"]["triggers"]
    rules = yaml.safe_load((DEPLOY / "k8s/components/hpa/adapter-rules.yaml").read_text(encoding="utf-8"))
    (rule,) = rules["rules"]["custom"]
    filled = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="lyre"')
    for expression in (trigger["metadata"]["query"], rule["seriesQuery"], filled):
        assert complaints(expression) == []
