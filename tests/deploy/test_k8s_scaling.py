"""The scalers ask for as many pods as the callers need, whatever the card, and leave room in each."""

import math
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.manifests import K8S, one, render
from tests.deploy.tools import run

SLOTS: Final = {"mig": 16, "h100": 160, "h200": 256}


def keda() -> dict[str, Any]:
    """The ScaledObject's spec."""
    return one(render("keda"), "ScaledObject")["spec"]


def hpa() -> dict[str, Any]:
    """The HorizontalPodAutoscaler's spec."""
    return one(render("h200+weights-pvc+hpa"), "HorizontalPodAutoscaler")["spec"]


def threshold() -> float:
    """Taken slots for each slot that are to be."""
    return float(keda()["triggers"][0]["metadata"]["threshold"])


def answer(expression: str, series: dict[str, float], expected: list[tuple[str, float]], folder: Path) -> None:
    """Prometheus' own answer to an expression, held against what was expected."""
    test = {
        "evaluation_interval": "10s",
        "tests": [
            {
                "interval": "10s",
                "input_series": [{"series": name, "values": f"{value}x6"} for name, value in series.items()],
                "promql_expr_test": [
                    {
                        "expr": expression,
                        "eval_time": "30s",
                        "exp_samples": [{"labels": labels, "value": value} for labels, value in expected],
                    }
                ],
            }
        ],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(test), encoding="utf-8")
    run("promtool", "test", "rules", folder / "test.yaml")


def pods(count: int, slots: int, running: int, waiting: int) -> dict[str, float]:
    """The series of so many equal pods, and of another namespace's busy one."""
    series: dict[str, float] = {}
    for namespace, pod in [("lyre", f"lyre-{number}") for number in range(count)] + [("other", "lyre-x")]:
        labels = f'{{namespace="{namespace}", job="lyre", instance="{pod}", pod="{pod}"}}'
        series |= {
            f"tts_slots{labels}": slots,
            f"tts_requests_running{labels}": running,
            f"tts_requests_waiting{labels}": waiting,
        }
    return series


@pytest.mark.parametrize(
    ("running_share", "waiting_share", "wanted"), [(0.75, 0, 2), (0.8, 0, 3), (1, 1, 6), (0, 0, 0)]
)
@pytest.mark.parametrize("slots", SLOTS.values())
def test_keda_wants(slots: int, running_share: float, waiting_share: float, wanted: int, tmp_path: Path) -> None:
    """Of two pods as busy as that: pods, as the HPA behind KEDA counts them."""
    running, waiting = round(slots * running_share), round(slots * waiting_share)
    load = 2 * (running + waiting) / slots
    answer(keda()["triggers"][0]["metadata"]["query"], pods(2, slots, running, waiting), [("{}", load)], tmp_path)
    assert math.ceil(load / threshold()) == wanted


def test_keda_while_all_load(tmp_path: Path) -> None:
    """Pods that know no slots yet ask for nothing; no series at all is no answer, and counts as a failure."""
    query = keda()["triggers"][0]["metadata"]["query"]
    answer(query, pods(2, 0, 0, 0), [("{}", 0)], tmp_path)
    answer(query, {}, [], tmp_path)
    assert keda()["triggers"][0]["metadata"]["ignoreNullValues"] == "false"
    assert keda()["fallback"]["behavior"] == "currentReplicasIfHigher"


@pytest.mark.parametrize("slots", SLOTS.values())
def test_hpa_wants_the_same(slots: int, tmp_path: Path) -> None:
    """The adapter's rule says of each pod what KEDA's query says of all, and both have the same goal."""
    (rule,) = yaml.safe_load((K8S / "components/hpa/adapter-rules.yaml").read_text(encoding="utf-8"))["rules"]["custom"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="lyre"')
    busy = round(slots * 0.75)
    expected = [(f'{{pod="lyre-{number}"}}', 0.75) for number in range(2)]
    answer(query, pods(2, slots, busy, 0), expected, tmp_path)
    (metric,) = hpa()["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": f"{threshold() * 1000:.0f}m"}


def test_goal_is_below_the_slots() -> None:
    """12 of 16; between the goal and full there is room for who comes while a pod starts."""
    assert threshold() * 16 == 12
    assert 0.5 <= threshold() <= 0.8


def test_slow_down_quick_up() -> None:
    """Up at once and by doubling; down by one pod a minute after a quarter of an hour. Both scalers alike."""
    behaviour = keda()["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behaviour == hpa()["behavior"]
    assert behaviour["scaleUp"]["stabilizationWindowSeconds"] <= 30
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] >= 900
    assert behaviour["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]
    assert keda()["pollingInterval"] <= 15
    assert (keda()["minReplicaCount"], keda()["maxReplicaCount"]) == (hpa()["minReplicas"], hpa()["maxReplicas"])
    # One may go at any time, and one must be left.
    assert keda()["minReplicaCount"] >= 2
    assert keda()["fallback"]["replicas"] >= keda()["minReplicaCount"]
