"""Servers of processes of their own, with the demo voice, whose insides can be looked at and broken."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from benchmarks.target import Target, target

SMALL = ("--max-concurrency", "4", "--max-queue", "4")
PATIENCE = 120.0
"""Seconds after which something that should happen counts as missing; no test measures time with it."""


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """A developer's own LYRE_* variables change no test, nor do the tests' servers take the whole machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LYRE_")]:
            patch.delenv(name)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def shared(no_settings_from_outside: None) -> Iterator[Target]:
    """One server for all tests that leave it as it was: four slots, four places in the queue."""
    with target(SMALL) as found:
        yield found


@pytest.fixture
def launch() -> Iterator[Callable[..., Target]]:
    """`launch("--flag", "value")`: a server of the test's own."""
    with ExitStack() as stack:
        yield lambda *flags: stack.enter_context(target([*SMALL, *flags]))
