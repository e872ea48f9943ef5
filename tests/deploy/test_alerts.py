"""Every alert is valid, fires when it must, is silent when it need not fire, and has a paragraph to read at night."""

import re
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.manifests import one, render
from tests.deploy.metrics import complaints, selectors
from tests.deploy.tools import DEPLOY, ROOT, run

CASES: Final = Path(__file__).with_name("alerts_test.yaml")
SOURCE: Final = DEPLOY / "monitoring/alerts.yaml"
RULES: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load(SOURCE.read_text(encoding="utf-8"))["spec"]["groups"] for rule in group["rules"]
]
NAMES: Final = [rule["alert"] for rule in RULES]


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as Prometheus reads them, with the cases beside them."""
    folder = tmp_path_factory.mktemp("rules")
    spec = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))["spec"]
    (folder / "rules.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    shutil.copy(CASES, folder)
    return folder / "rules.yaml"


def test_valid(rules: Path) -> None:
    """For Prometheus itself, with all that promtool can find fault with."""
    assert f"{len(RULES)} rules found" in run("promtool", "check", "rules", "--lint=all", "--lint-fatal", rules)


def test_fire_and_are_silent(rules: Path) -> None:
    """As alerts_test.yaml says."""
    run("promtool", "test", "rules", rules.with_name(CASES.name))


def test_cases_can_fail(rules: Path, tmp_path: Path) -> None:
    """An alert with another threshold does not pass them."""
    (tmp_path / "rules.yaml").write_text(rules.read_text(encoding="utf-8").replace("> 0.9", "> 0.99"), encoding="utf-8")
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    cases["tests"] = [test for test in cases["tests"] if test["name"] == "full"]
    (tmp_path / CASES.name).write_text(yaml.safe_dump(cases), encoding="utf-8")
    with pytest.raises(AssertionError, match="LyreSaturated"):
        run("promtool", "test", "rules", tmp_path / CASES.name)


@pytest.mark.parametrize("name", NAMES)
def test_both_cases(name: str) -> None:
    """Each alert has a moment when it fires and one when it does not."""
    tests = yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
    expected = [
        bool(case["exp_alerts"]) for test in tests for case in test["alert_rule_test"] if case["alertname"] == name
    ]
    assert set(expected) == {True, False}


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_speaks_of_what_exists(rule: dict[str, Any]) -> None:
    """Only of metrics, labels and values that a server has."""
    assert selectors(rule["expr"])
    assert complaints(rule["expr"]) == []


def test_complaints() -> None:
    """Of a wrong name, label, value, group, and of what is no PromQL."""
    assert complaints("tts_ready == 0") == []
    assert complaints("tts_raedy == 0") == ["no metric tts_raedy"]
    assert complaints('tts_finished_total{why="stop"}') == ["tts_finished_total has no label why"]
    assert complaints('rate(tts_requests_total{outcome=~"ok|fine"}[5m])') == [
        "tts_requests_total: outcome is never ok|fine"
    ]
    assert complaints("sum by (job, colour) (tts_ready)") == ["nothing has a label colour"]
    assert complaints("histogram_quantile(0.5, sum by (le) (rate(tts_nothing_bucket[5m])))") == [
        "no metric tts_nothing_bucket"
    ]
    assert complaints("1 + (tts_ready and on (pod) tts_nothing)") == ["no metric tts_nothing"]
    with pytest.raises(ValueError, match="unclosed"):
        complaints("sum(tts_ready")


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_runbook(rule: dict[str, Any]) -> None:
    """Its link leads to a heading of docs/operations.md with a text that says what to do."""
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert anchor == rule["alert"].lower()
    (paragraph,) = re.findall(rf"^### {rule['alert']}\n(.+?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(paragraph.split()) > 40
    for part in ("**Means**", "**Look**", "**Do**"):
        assert part in paragraph


def test_applied_as_written() -> None:
    """What kustomize sends is the file."""
    groups = one(render("monitoring"), "PrometheusRule")["spec"]["groups"]
    assert [rule for group in groups for rule in group["rules"]] == RULES


def test_scrapes_are_closer_than_what_looks_at_them() -> None:
    """Each range holds several scrapes: rate() of fewer than two says nothing."""
    interval = one(render("monitoring"), "ServiceMonitor")["spec"]["endpoints"][0]["interval"]
    ranges = re.findall(r"\[(\d+)m\]", SOURCE.read_text(encoding="utf-8"))
    assert min(map(int, ranges)) * 60 >= 4 * int(interval.removesuffix("s"))
