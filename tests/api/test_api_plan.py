"""`lyre plan`: the simulation against closed forms of queueing theory, the curves it reads, and what it says."""

import json
from math import exp, factorial, inf
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from click.testing import CliRunner, Result

from api.__main__ import main
from api.plan.curve import CurveError, read_curve, shipped_curves
from api.plan.simulation import Exponential, Group, Measured, quantile, simulate
from api.plan.sizing import Demand, Supply, size

NO_FIRST = (0.0, 0.0, 0.0)
SEEDS = range(4)
"""What is compared with a closed form is the mean over these; the tolerances are about four standard errors."""


def flat(pods: int, slots: int, queue: int, factor: float = 1.0) -> Group:
    """Pods whose streams do not slow one another down: M/G/c."""
    return Group(pods, slots, [factor] * (slots + 1), [NO_FIRST] * (slots + 1), queue)


def erlang_b(servers: int, load: float) -> float:
    """The share that is lost where nobody waits."""
    terms = [load**n / factorial(n) for n in range(servers + 1)]
    return terms[-1] / sum(terms)


def erlang_c(servers: int, load: float) -> float:
    """The share that must wait where nobody is lost."""
    lost = erlang_b(servers, load)
    return lost / (1 - load / servers * (1 - lost))


@pytest.mark.parametrize(("pods", "slots"), [(1, 8), (4, 2)])
def test_waiting_is_erlang_c(pods: int, slots: int) -> None:
    # 1 s of speech takes 0.5 s; 12 a second keep 6 of the 8 slots busy.
    group = flat(pods, slots, 10**6, factor=0.5)
    runs = [simulate(group, 12.0, Exponential(1.0), 30_000, seed) for seed in SEEDS]
    waiting = erlang_c(8, 6.0)
    assert fmean(run.waiting_share for run in runs) == pytest.approx(waiting, rel=0.075)
    assert fmean(fmean(run.waits) for run in runs) == pytest.approx(waiting * 0.5 / (8 - 6), rel=0.2)
    assert fmean(run.busy for run in runs) == pytest.approx(6.0, rel=0.015)
    assert sum(run.rejected for run in runs) == 0
    assert quantile(runs[0].factors, 0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("lengths", [Exponential(1.0), Measured((1.0,)), Measured((0.2, 0.2, 2.6))])
def test_without_a_queue_erlang_b_is_lost_whatever_the_lengths(lengths: Exponential | Measured) -> None:
    runs = [simulate(flat(3, 2, 0), 5.0, lengths, 15_000, seed) for seed in SEEDS]
    assert fmean(run.rejected_share for run in runs) == pytest.approx(erlang_b(6, 5.0), rel=0.06)
    assert not any(any(run.waits) for run in runs)


def test_streams_that_share_a_device_slow_one_another_down() -> None:
    # n streams at 1/n of the speed each: processor sharing, whose mean number of streams is load / (1 - load).
    group = Group(1, 200, [max(1, n) for n in range(201)], [NO_FIRST] * 201, 0)
    assert simulate(group, 0.7, Measured((0.5, 1.5)), 40_000).busy == pytest.approx(0.7 / 0.3, rel=0.08)


def test_who_is_out_of_patience_is_rejected_and_nobody_waits_longer() -> None:
    group = Group(1, 2, [1.0] * 3, [NO_FIRST] * 3, 10**6, patience=1.5)
    seen = simulate(group, 3.0, Exponential(1.0), 20_000)
    # M/M/2 with patience: the weights of nobody here, one, a wait below 1.5 s (it grows as e^w) and one beyond.
    below, beyond = 9 * (exp(1.5) - 1), 9 * exp(1.5) / 2
    assert seen.rejected_share == pytest.approx(beyond / (1 + 3 + below + beyond), abs=0.015)
    assert max(seen.waits) <= 1.5


def test_first_audio_is_drawn_from_its_percentiles() -> None:
    group = Group(1, 50, [0.1] * 51, [(0.1, 0.2, 0.4)] * 51, 0)
    firsts = simulate(group, 10.0, Exponential(1.0), 20_000).firsts
    assert [quantile(firsts, share) for share in (0.5, 0.95, 0.99)] == pytest.approx([0.1, 0.2, 0.4], rel=0.05)


def test_a_seed_is_the_same_simulation() -> None:
    one, same, other = (simulate(flat(2, 2, 5), 3.0, Exponential(1.0), 2_000, seed).waits for seed in (1, 1, 2))
    assert one == same != other


# ---- curves


def row(load: str, text: str = "medium", **more: Any) -> dict[str, Any]:
    return {"text": text, "load": load, "ttfa_p50": 50.0, "ttfa_p95": 80.0, "ttfa_p99": 90.0, "rtf_p50": 0.2} | more


def written(tmp_path: Path, rows: list[dict[str, Any]], **more: Any) -> str:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"commit": "abc", "command": "bench", "rows": rows, **more}))
    return str(path)


def test_shipped_curves_are_read_and_tell_their_source() -> None:
    assert shipped_curves() == ["h200"]
    curve = read_curve("h200", 5.0)
    assert [point.streams for point in curve.points] == [1, 16, 64, 128, 256, 320, 400]
    assert "7926865" in curve.source
    # The row of texts that are spoken for about as long; for short ones another.
    assert curve.points[1].factor == 0.182
    assert read_curve("h200", 1.0).points[1].factor == 0.222
    # Who underran at 400 had to wait for 101.5 ms.
    assert (curve.most_streams(0.02), curve.most_streams(0.11)) == (320, 400)


def test_what_bench_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    table = {"rows": [row("1"), row("1, httpx"), row("4", rtf_p50=0.5)]}
    capacity = {"rows": [row("8", "10 s", rtf_p50=0.8, audio_per_s=8.0)]}
    path.write_text(json.dumps({"commit": "abc", "results": {"serve": table, "capacity": capacity}}))
    curve = read_curve(str(path), 5.0)
    # 8 streams that get 8 seconds of speech a second are at a factor of 1, whatever the median says.
    assert [(point.streams, point.factor) for point in curve.points] == [(1, 0.2), (4, 0.5), (8, 1.0)]
    assert curve.most_streams(1.0) == 4
    assert curve.factors(6)[5:] == pytest.approx([0.625, 0.75])


@pytest.mark.parametrize(
    "content", ["no json", "[]", "{}", '{"rows": []}', '{"rows": [{"load": "4"}]}', '{"rows": [{"load": "9/s"}]}']
)
def test_a_file_that_is_no_curve_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(CurveError, match=r"x\.json"):
        read_curve(str(path), 5.0)


def test_a_row_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CurveError, match="contradicts"):
        read_curve(written(tmp_path, [row("4", ttfa_p95=40.0)]), 5.0)


# ---- fleets


def test_the_fleet_keeps_its_promises_without_its_spare_pod_and_one_less_does_not() -> None:
    curve, demand = read_curve("h200", 5.0), Demand(300, 1.0, 5.0, 0.2, 0.001)
    sized = size(curve, demand, Supply(slots=16, queue=4, patience=3.0))
    assert sized.first_p95 <= 0.2
    assert sized.rejected_share <= 0.001
    factors, firsts = curve.factors(16), curve.firsts(16)
    # A pod makes 86 seconds of speech a second when it is full: three of them cannot be enough for 300 listeners.
    assert sized.pods == 1 + 4
    met = simulate(Group(3, 16, factors, firsts, 12, 3.0), demand.rate, Exponential(5.0), 12_000)
    assert met.rejected_share > 0.001


def test_large_fleets_are_cells_and_every_number_grows() -> None:
    curve = read_curve("h200", 5.0)
    supply = Supply(slots=16, queue=4, patience=3.0, cell=8, gpu_hour=2.0)
    small, large = (size(curve, Demand(callers, 0.5, 5.0, 0.2, 0.001), supply) for callers in (2_000, 40_000))
    assert small.pods_a_cell <= 8
    assert large.cells > small.cells > 1
    assert large.gpus == large.cells * large.pods_a_cell
    assert 15 < large.gpus / small.gpus < 25
    # No more than the GPUs at full slots could speak, at most 90 % of it, less the spare ones.
    assert large.playing / (large.gpus - large.cells) <= 0.9 * 16 / 0.185
    assert large.cost_per_audio_hour == pytest.approx(large.gpus * 2.0 / 20_000)


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


def test_the_command_answers_people_and_machines() -> None:
    table = plan("--streams", "100", "--streams", "300", "--ttfa", "150", "--gpu-hour-price", "3")
    assert table.exit_code == 0, table.output
    assert "NVIDIA H200" in table.output
    assert "an hour of audio" in table.output
    document = json.loads(plan("--streams", "100", "--ttfa", "150", "--gpu-hour-price", "3", "--json").output)
    assert document["slots_a_pod"] == 320
    assert document["rows"][0]["gpus"] == 2
    assert document["rows"][0]["cost_per_audio_hour"] == pytest.approx(0.06)


def test_calls_a_minute_are_callers_by_littles_law() -> None:
    document = json.loads(
        plan("--calls-per-minute", "50", "--call-minutes", "4", "--listening", "0.4", "--json").output
    )
    assert (document["rows"][0]["callers"], document["rows"][0]["playing"]) == (200, 80)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--streams"),
        (["--streams", "10", "--calls-per-minute", "3"], "--streams"),
        (["--streams", "10", "--ttfa", "40"], "single stream"),
        (["--streams", "10", "--slots", "500"], "not measured"),
        (["--streams", "10", "--curve", "b200"], "h200"),
        (["--streams", "10", "--spare", "16"], "--spare"),
    ],
)
def test_what_cannot_be_planned_is_said(arguments: list[str], said: str) -> None:
    result = plan(*arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_infinite_waits_need_no_buffer_that_covers_them(tmp_path: Path) -> None:
    curve = read_curve(written(tmp_path, [row("1"), row("4", underrunning=0.5)]), 5.0)
    assert curve.points[1].waited == inf
    assert curve.most_streams(10.0) == 1
