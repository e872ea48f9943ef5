"""The clients of the serve benchmark: what they count against a real server, and what makes a run fail."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from benchmarks.listening import BYTES_PER_SECOND, Heard
from benchmarks.load import Outcome
from benchmarks.report import percentile
from benchmarks.serve import main, summary
from engine import GenerationFailed
from tests.api.fake_engine import CHUNK, RATE, FakeEngine, Plan
from tests.api.live_server import LiveServer

TENTH = bytes(BYTES_PER_SECOND // 10)


def heard(*moments: float) -> Heard:
    """A stream that gets 0.1 s of silence at each of these moments after it began."""
    stream = Heard(began=100.0)
    for moment in moments:
        stream.hear(TENTH, 100.0 + moment)
    return stream


def test_a_player_waits_only_for_what_is_not_there_yet() -> None:
    smooth = heard(0.5, 0.6, 0.65, 0.8)
    assert (smooth.first, smooth.underruns, smooth.waited, smooth.audible) == (0.5, 0, 0.0, None)
    assert smooth.rtf == pytest.approx(0.8 / 0.4)


def test_a_wait_moves_all_that_follows() -> None:
    # 0.2 s late once; the player then goes on later, so that the same pace is no second wait.
    stalled = heard(0.5, 0.8, 0.9, 1.0)
    assert stalled.underruns == 1
    assert stalled.waited == pytest.approx(0.2)
    assert heard(0.5, 0.8, 1.1).underruns == 2


def test_audible_is_the_first_loud_sample() -> None:
    stream = heard(0.1)
    stream.hear(b"\x00", 100.2)  # half a sample
    stream.hear(b"\x7f" + bytes(10), 100.3)
    assert stream.audible is None
    stream = heard(0.1)
    stream.hear((1000).to_bytes(2, "little", signed=True), 100.2)
    assert stream.audible == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("count", "share", "rank"),
    [(1, 0.99, 1), (2, 0.5, 1), (3, 0.5, 2), (20, 0.95, 19), (21, 0.95, 20), (100, 0.99, 99)],
)
def test_percentiles_are_nearest_ranks(count: int, share: float, rank: int) -> None:
    assert percentile(list(range(count, 0, -1)), share) == rank


def test_streams_of_the_ramp_count_as_players_only() -> None:
    early, late = heard(0.9, 1.5), heard(0.1, 0.2)
    late.began = 200.0
    row = summary("short", "2", Outcome([early, late], settled_from=150.0), None)
    assert (row.requests, row.streams, row.ttfa_p50, row.underrunning) == (1, 2, 100.0, 0.5)


@pytest.fixture
def measured(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Runs the benchmark; -> its exit status and its document."""

    def run(server: LiveServer, *arguments: str) -> tuple[int, dict[str, Any]]:
        status = main(["--url", server.url, "--ramp", "0.1", *arguments])
        return status, json.loads(capfd.readouterr().out.splitlines()[-1])

    return run


def test_rows_of_a_real_server(launch: Callable[..., LiveServer], measured: Callable[..., Any]) -> None:
    server = launch(FakeEngine())
    status, document = measured(server, "--concurrency", "1", "5", "--requests", "8", "--processes", "2")
    assert status == 0
    assert [(row["text"], row["load"]) for row in document["rows"]] == [
        (text, load) for load in ("1", "5") for text in ("short", "medium", "long")
    ]
    assert all((row["requests"], row["errors"]) == (8, 0) for row in document["rows"])
    assert document["server"]["slots"] == 16
    seconds = Plan().chunks * CHUNK / RATE
    for row in document["rows"]:
        # All of the audio, over the time that the slowest percentile bounds from below.
        assert row["audio_per_s"] > 0
        assert row["rtf_max"] * seconds * 1000 >= row["ttfa_p50"]
        assert all(a <= b for a, b in pairwise((row["ttfa_p50"], row["ttfa_p95"], row["ttfa_p99"])))


def test_arrivals_by_a_rate_and_a_capacity(launch: Callable[..., LiveServer], measured: Callable[..., Any]) -> None:
    server = launch(FakeEngine())
    status, document = measured(server, "--rate", "40", "--duration", "0.8", "--texts", "short")
    assert status == 0
    assert document["rows"][0]["streams"] > 5
    status, document = measured(server, "--capacity", "--concurrency", "2", "4", "--duration", "0.8", "--seconds", "1")
    assert status == 0
    assert document["rows"][0]["requests"] >= 1


def test_a_broken_stream_is_an_error(launch: Callable[..., LiveServer], measured: Callable[..., Any]) -> None:
    engine = FakeEngine()
    server = launch(engine)
    before = engine.submit
    asked = iter(range(100))

    def submit(*arguments: Any) -> Any:
        # The first is the benchmark's probe of how long speech is; the next but one breaks off.
        engine.plan = Plan(fail_at=1, error=GenerationFailed("broken")) if next(asked) == 2 else Plan()
        return before(*arguments)

    engine.submit = submit
    status, document = measured(server, "--concurrency", "1", "--requests", "4", "--texts", "short")
    assert status == 1
    assert (document["rows"][0]["errors"], document["rows"][0]["requests"]) == (1, 3)


def test_a_library_hears_the_same(launch: Callable[..., LiveServer], measured: Callable[..., Any]) -> None:
    arguments = ("--concurrency", "1", "--requests", "3", "--texts", "short", "--library")
    status, document = measured(launch(FakeEngine()), *arguments)
    assert status == 0
    assert [(row["load"], row["requests"], row["errors"]) for row in document["rows"]] == [
        ("1, httpx", 3, 0),
        ("1", 3, 0),
    ]


def test_a_server_that_is_not_ready_is_told(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    engine.may_start.clear()
    server = launch(engine, ready=False)
    with pytest.raises(SystemExit, match="is not ready"):
        main(["--url", server.url])
    engine.may_start.set()
