"""`lyre` with the fake engine in place of the real one: `python -m tests.api.fake_command serve ...`

The variable FAKE scripts the engine, as JSON: "plan" changes its plan, "start_error" is why it cannot start,
"gives_up" lets it die later, "loads" never lets it be ready, and a file at "gate" opens what the plan holds.
"""

import json
import os
import sys
import threading
from pathlib import Path

import api.app
from api.__main__ import main
from engine import CheckpointError, EngineConfig
from tests.api.fake_engine import FakeEngine


class FileGate(threading.Event):
    """An event that another process sets, by making a file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    def is_set(self) -> bool:
        return self.path.exists()


class CommandEngine(FakeEngine):
    """A FakeEngine that is set up by the environment."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        script = json.loads(os.environ.get("FAKE", "{}"))
        vars(self.plan).update(script.get("plan", {}))
        if "gate" in script:
            self.plan.hold = FileGate(script["gate"])
        if "start_error" in script:
            self.start_error = CheckpointError(script["start_error"])
        if script.get("loads"):
            self.may_start.clear()
        if script.get("gives_up"):
            self.gave_up.set()


if __name__ == "__main__":
    api.app.Engine = CommandEngine  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
    sys.argv[0] = "lyre"
    main()
