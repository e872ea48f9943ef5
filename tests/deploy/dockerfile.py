"""deploy/Dockerfile as stages of instructions, and the locks beside it as pinned packages."""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@dataclass
class Stage:
    """One FROM and what follows it: (instruction, argument) in order, continued lines joined."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def arguments(self, instruction: str) -> list[str]:
        """What this instruction is given, each time that it stands here."""
        return [argument for name, argument in self.steps if name == instruction]


def read_dockerfile() -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first stage, with their defaults, and the stages in order."""
    text = "\n".join(line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in filter(None, re.sub(r"\\\n\s*", " ", text).splitlines()):
        instruction, _, argument = line.partition(" ")
        if instruction == "FROM":
            base, _, name = argument.partition(" AS ")
            stages.append(Stage(base, name))
        elif stages:
            stages[-1].steps.append((instruction, argument))
        else:
            assert instruction == "ARG", line
            name, _, default = argument.partition("=")
            arguments[name] = default
    return arguments, stages


def lineage(stages: list[Stage], name: str) -> list[Stage]:
    """A stage and those that it is made from, the first one first."""
    by_name = {stage.name: stage for stage in stages}
    stage = by_name[name]
    return [*(lineage(stages, stage.base) if stage.base in by_name else []), stage]


def read_lock(name: str) -> dict[str, set[str]]:
    """Package -> its versions, more than one where they differ by Python or platform. Fails for a line without hash."""
    entries = re.sub(r"\\\n\s*", " ", (DEPLOY / name).read_text())
    pinned: dict[str, set[str]] = {}
    for line in entries.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            found = re.fullmatch(r"([a-z0-9-]+)==([^ ]+) .*?--hash=sha256:[0-9a-f]{64}.*", line)
            assert found, f"{name}: {line[:80]}"
            pinned.setdefault(found[1], set()).add(found[2])
    return pinned
