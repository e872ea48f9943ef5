"""What a check has found, and a list of it as a person and as a program reads it."""

import json
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from rich.console import Console
from rich.text import Text

from api import __version__

Status = Literal["ok", "warning", "error"]

_COLOURS: Final = {"ok": "green", "warning": "yellow", "error": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do if that is not well."""

    check: str
    status: Status
    message: str
    advice: str = ""


def ok(check: str, message: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", message)


def warning(check: str, message: str, advice: str) -> Finding:
    """It will run, and not as it should."""
    return Finding(check, "warning", message, advice)


def error(check: str, message: str, advice: str) -> Finding:
    """It will not run."""
    return Finding(check, "error", message, advice)


def worst(findings: Iterable[Finding]) -> Status:
    """Of all of them."""
    found = {finding.status for finding in findings}
    return "error" if "error" in found else "warning" if "warning" in found else "ok"


def show(findings: list[Finding], console: Console) -> None:
    """A line each, and the advice below it."""
    width = max((len(finding.check) for finding in findings), default=0)
    for finding in findings:
        line = Text(f"{finding.status:<8} {finding.check:<{width}}  {finding.message}")
        line.stylize(_COLOURS[finding.status], 0, 8)
        console.print(line, soft_wrap=True)
        if finding.advice:
            console.print(Text(textwrap.indent(f"-> {finding.advice}", " " * (width + 11))), soft_wrap=True)


def document(findings: list[Finding]) -> str:
    """One JSON object: `status` is the worst one."""
    content: dict[str, Any] = {"lyre": __version__, "status": worst(findings)}
    return json.dumps(content | {"findings": [asdict(finding) for finding in findings]}, indent=2)
