"""`lyre plan`: the simulation against closed forms of queueing theory, the curves it reads, and what it says."""

import json
from dataclasses import replace
from math import exp, factorial, inf
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from click.testing import CliRunner, Result

from api.__main__ import main
from api.plan.curve import CurveError, read_curve, shipped_curves
from api.plan.simulation import Exponential, Group, Measured, Seen, quantile, simulate
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
    assert "40cd866" in curve.source
    # The row of texts that are spoken for about as long; for short ones another.
    assert curve.points[1].factor == 0.154
    assert read_curve("h200", 1.0).points[1].factor == 0.179
    assert curve.most_streams(0.0) == 400


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


@pytest.mark.parametrize(
    "wrong", [{"ttfa_p95": 40.0}, {"ttfa_p50": float("nan")}, {"ttfa_p50": -5.0}, {"rtf_p50": 0.0}, {"ttfa_p99": inf}]
)
def test_a_row_that_contradicts_itself_is_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(CurveError, match="contradicts"):
        read_curve(written(tmp_path, [row("4", **wrong)]), 5.0)


def test_what_a_benchmark_prints_is_read(tmp_path: Path) -> None:
    path = tmp_path / "printed.txt"
    path.write_text("text  load\nmedium  1\n" + json.dumps({"commit": "abc", "rows": [row("1")]}) + "\n")
    assert read_curve(str(path), 5.0).points[0].factor == 0.2


def test_only_streams_that_were_kept_busy_tell_what_they_got(tmp_path: Path) -> None:
    rows = [row("4", audio_per_s=10.0), row("8", "10 s", audio_per_s=10.0)]
    assert [point.factor for point in read_curve(written(tmp_path, rows), 5.0).points] == [0.2, 0.8]


def test_the_most_streams_are_those_before_the_first_gap(tmp_path: Path) -> None:
    rows = [row("1"), row("4", underrunning=0.5, worst_wait=300.0), row("8")]
    curve = read_curve(written(tmp_path, rows), 5.0)
    assert (curve.most_streams(0.02), curve.most_streams(0.3)) == (1, 8)


# ---- fleets


CURVE = read_curve("h200", 5.0)


def simulated(pods: int, supply: Supply, demand: Demand, cells: int = 1, crowded: bool = False) -> Seen:
    """A cell's arrivals, longer and with another seed than the search has them."""
    group = Group(pods, supply.slots, CURVE.factors(supply.slots), CURVE.firsts(supply.slots), 0)
    group = replace(group, queue=pods * supply.queue, patience=supply.patience)
    return simulate(group, demand.rate / cells, Exponential(demand.utterance), 30_000, 7, crowded)


@pytest.mark.parametrize(
    ("callers", "first", "queue", "cell", "fleet"),
    [
        (75, 0.2, 4, 2, (2, 1)),  # one pod of a cell would do for the speech, but refuses some
        (75, 0.2, 0, 16, (1, 2)),
        (100, 0.045, 4, 16, None),  # the promise of the first audio decides
    ],
)
def test_a_fleet_keeps_its_promises_without_its_spare_pod_and_a_smaller_one_does_not(
    callers: int, first: float, queue: int, cell: int, fleet: tuple[int, int] | None
) -> None:
    demand, supply = Demand(callers, 1.0, 5.0, first, 0.001), Supply(slots=16, queue=queue, patience=3.0, cell=cell)
    sized = size(CURVE, demand, supply)
    cells, pods = sized.cells, sized.pods_a_cell - 1
    assert fleet is None or (cells, pods) == fleet
    met = simulated(pods, supply, demand, cells)
    assert met.rejected_share <= 0.0015
    assert quantile(met.firsts, 0.95) <= 1.03 * first
    fewer = (pods - 1, cells) if pods > 1 else (pods, cells - 1)
    less = simulated(fewer[0], supply, demand, fewer[1])
    assert less.rejected_share > 0.001 or quantile(less.firsts, 0.95) > first


def test_a_fleet_that_was_crowded_keeps_its_promises_too(tmp_path: Path) -> None:
    # A pod makes 200 seconds of speech a second with 20 streams, 80 with 60, 125 with 100: 100 with 10 or with 77.
    shape = {1: (0.1, 50.0), 20: (0.1, 50.0), 60: (0.75, 500.0), 100: (0.8, 500.0)}
    rows = [
        row(str(n), rtf_p50=factor, ttfa_p50=first, ttfa_p95=first, ttfa_p99=first)
        for n, (factor, first) in shape.items()
    ]
    curve = read_curve(written(tmp_path, rows), 4.3)
    group = Group(1, 100, curve.factors(100), curve.firsts(100), 25)
    for crowded, busy in ((False, 10), (True, 77)):
        assert simulate(group, 100 / 4.3, Exponential(4.3), 8_000, 0, crowded).busy == pytest.approx(busy, rel=0.15)
    sized = size(curve, Demand(100, 1.0, 4.3, 0.2, 0.001), Supply(slots=100, queue=25, patience=3.0, spare=0))
    assert (sized.pods, sized.busy_share < 0.2) == (2, True)


def test_the_first_audio_comes_after_the_wait() -> None:
    seen = simulate(Group(1, 2, [1.0] * 3, [(0.1, 0.1, 0.1)] * 3, 10), 1.9, Exponential(1.0), 4_000)
    assert max(seen.waits) > 0.5
    assert [first - wait for first, wait in zip(seen.firsts, seen.waits, strict=True)] == pytest.approx(
        [0.1] * len(seen.waits)
    )


def test_large_fleets_are_cells_and_every_number_grows() -> None:
    curve = read_curve("h200", 5.0)
    supply = Supply(slots=16, queue=4, patience=3.0, cell=8, gpu_hour=2.0)
    small, large = (size(curve, Demand(callers, 0.5, 5.0, 0.2, 0.001), supply) for callers in (2_000, 40_000))
    assert small.pods_a_cell <= 8
    assert large.cells > small.cells > 1
    assert large.gpus == large.cells * large.pods_a_cell
    assert 15 < large.gpus / small.gpus < 25
    # No more than the GPUs at full slots could speak, at most 90 % of it, less the spare ones.
    assert large.playing / (large.gpus - large.cells) <= 0.9 * 16 / 0.154
    assert large.cost_per_audio_hour == pytest.approx(large.gpus * 2.0 / 20_000)


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


def test_the_command_answers_people_and_machines() -> None:
    table = plan("--streams", "100", "--streams", "300", "--ttfa", "150", "--gpu-hour-price", "3")
    assert table.exit_code == 0, table.output
    assert "NVIDIA H200" in table.output
    assert "an hour of audio" in table.output
    document = json.loads(plan("--streams", "100", "--ttfa", "150", "--gpu-hour-price", "3", "--json").output)
    assert document["slots_a_pod"] == 400
    assert document["queue"] == 100
    assert "one NVIDIA H200" in document["curve"]
    assert document["rows"][0]["gpus"] == 2
    assert document["rows"][0]["cost_per_audio_hour"] == pytest.approx(0.06)


def test_how_pods_are_run_is_taken_from_the_flags() -> None:
    flags = ("--streams", "54", "--slots", "16", "--gpus-a-pod", "2", "--spare", "0", "--json")
    two, none = (json.loads(plan(*flags, *more).output)["rows"][0] for more in ((), ("--queue", "0")))
    assert two["gpus"] == 2 * two["pods"]
    assert none["pods"] > two["pods"]
    crowded = ("--streams", "24", "--slots", "4", "--spare", "0", "--rejected", "1", "--ttfa", "9000")
    waits = [json.loads(plan(*crowded, "--patience", s, "--json").output)["rows"][0]["first_p95"] for s in ("0", "3")]
    assert waits[0] < waits[1]


def test_lengths_that_were_not_measured_are_noted() -> None:
    assert "64 (10 s)" in plan("--streams", "10", "--utterance", "1").output
    assert json.loads(plan("--streams", "10", "--json").output)["notes"] == []


def test_a_name_is_no_markup(tmp_path: Path) -> None:
    path = written(tmp_path, [row("1"), row("4")], name="[/nope] of [bold]mine")
    result = plan("--streams", "4", "--curve", path)
    assert result.exit_code == 0, result.output
    assert "[/nope] of [bold]mine" in result.output


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
        (["--streams", "10", "--ttfa", "38"], "38.1 ms"),
        (["--streams", "1000", "--ttfa", "38.1", "--seed", "1"], "no number of pods"),
        (["--streams", "10", "--ttfa", "nan"], "finite"),
        (["--streams", "10", "--patience", "inf"], "finite"),
        (["--calls-per-minute", "1e300"], "--calls-per-minute"),
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
