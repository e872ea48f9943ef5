"""An engine process whose device fails for good in the middle of its work, and hangs in the clean-up after that.

    python -m tests.engine.faulty_worker IN OUT CONFIG

As CUDA does it: the step raises, and so does everything after it. The file at FAULT_GATE lets it happen.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from engine.model.runner import ModelRunner
from engine.worker import main

launch = ModelRunner.launch


def fault(self: ModelRunner, *arguments: Any) -> Any:
    """The step, or the error."""
    if Path(os.environ["FAULT_GATE"]).exists():
        threading.Thread(target=time.sleep, args=(1000,)).start()
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return launch(self, *arguments)


if __name__ == "__main__":
    ModelRunner.launch = fault  # type: ignore[method-assign]
    sys.exit(main(*sys.argv[1:]))
