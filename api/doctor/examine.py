"""All checks of this machine, one after another. A check that breaks is a finding, too."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from api.auth import file_keys
from api.doctor.accelerator import accelerator, probe
from api.doctor.checkpoints import checkpoints
from api.doctor.findings import Finding, error, ok
from api.doctor.machine import machine
from api.settings import PREFIX, Settings, load_settings
from engine import ConfigError


def examine(flags: Mapping[str, Any]) -> Iterator[Finding]:
    """Each finding as soon as it is there. `flags` are the command line's settings; the environment counts, too."""
    settings, wrong = usable_settings(flags, os.environ)
    yield from wrong or [ok("settings", "all names and values can be right")]
    yield from _guarded("machine", lambda: machine(settings))
    facts, ended = probe(settings)
    yield from _guarded("accelerator", lambda: accelerator(settings, facts, ended))
    yield from _guarded("checkpoints", lambda: checkpoints(settings, facts))


def usable_settings(flags: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[Settings, list[Finding]]:
    """The settings without those that cannot work, and an error for each of these."""
    flags, environ = dict(flags), dict(environ)
    wrong: list[Finding] = []
    while True:
        try:
            return load_settings(flags, environ), wrong
        except ConfigError as problem:
            wrong.append(error("settings", str(problem), "correct it or unset it: lyre serve --help lists them all"))
            name = problem.field.removeprefix("--").replace("-", "_").removeprefix(PREFIX).lower()
            given = flags.pop(name, None) is not None or environ.pop(problem.field, None) is not None
            if not given and environ.pop(PREFIX + name.upper(), None) is None:
                # It is at fault together with others, which cannot be told apart.
                return load_settings({}, {}), wrong


def first_key(flags: Mapping[str, Any]) -> str | None:
    """A key to ask a server with: of the settings, else OPENAI_API_KEY."""
    settings, _ = usable_settings(flags, os.environ)
    listed = list(settings.api_keys)
    if settings.api_keys_file is not None:
        with contextlib.suppress(OSError, ValueError):
            listed += file_keys(settings.api_keys_file.read_bytes())
    return next(iter(listed), os.environ.get("OPENAI_API_KEY") or None)


def _guarded(name: str, checks: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from checks()
    except Exception as problem:  # noqa: BLE001
        # This broad because a doctor does not die of the disease.
        yield error(name, f"the check broke: {type(problem).__name__}: {problem}"[:300], "please report this")
