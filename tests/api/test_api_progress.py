"""What a person sees while the server loads: a bar on a terminal, lines in a file."""

import io
import logging
import sys

import pytest
from rich.console import Console

from api.lifecycle import Lifecycle
from api.progress import LoadingBar, StderrHandler
from engine import EngineConfig
from tests.api.fake_engine import FakeEngine


class Terminal(io.StringIO):
    """Standard error that somebody looks at."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_and_the_log_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    bar = LoadingBar(Console(stderr=True))
    log = logging.getLogger("test-progress")
    log.propagate, log.handlers = False, [StderrHandler()]
    bar.show("weights: 3 of 28", 0.25)
    log.warning("a line of the log")
    bar.close()
    shown = stderr.getvalue()
    assert "weights: 3 of 28" in shown
    assert "25%" in shown
    # The line is the terminal's own: what stood there is erased before it.
    assert "\x1b[2Ka line of the log\n" in shown
    bar.show("weights: 3 of 28", 0.5)
    log.warning("a later line")
    assert stderr.getvalue() == shown + "a later line\n"


def test_a_file_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    bar = LoadingBar(Console(file=file))  # rich would take this variable for a terminal
    bar.show("weights", 0.5)
    bar.close()
    assert file.getvalue() == ""


@pytest.mark.anyio
async def test_a_stage_that_counts_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, float]] = []
    engine = FakeEngine(EngineConfig())
    engine.may_start.set()
    lifecycle = Lifecycle(engine, on_progress=lambda stage, done: told.append((stage, done)))  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO, "lyre"):
        await engine.start(lifecycle._progress)
    assert told == [("weights: 1 of 8", 0.125), ("weights: 2 of 8", 0.25)]
    assert [record.getMessage() for record in caplog.records] == ["loading: weights"]
    assert lifecycle.stage == "weights"
