"""How far the start has come: a bar on a terminal, under the log's lines; nothing where nobody looks."""

import logging
import sys
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn


def loading_bar(console: Console) -> Progress:
    """A bar with a percentage and the stage (the task's description), which leaves nothing behind."""
    columns = (TextColumn("loading"), BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, transient=True)


class LoadingBar:
    """From the first `show` to `close`; later ones (an engine that is started again) show nothing."""

    def __init__(self, console: Console, wanted: bool = True) -> None:
        self._bar: Progress | None = loading_bar(console) if wanted and console.file.isatty() else None
        self._task = self._bar.add_task("", total=1.0) if self._bar else None

    def show(self, stage: str, done: float) -> None:
        """`done` of the whole, 0 to 1."""
        if self._bar is not None and self._task is not None:
            self._bar.start()
            self._bar.update(self._task, description=stage, completed=done)

    def close(self) -> None:
        """Takes the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time: while a bar is shown, a proxy that writes above it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        self.stream = sys.stderr
        super().emit(record)
