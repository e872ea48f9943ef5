"""What the routes share: the settings, the engine, who is let in, the metrics, and when the server was started."""

import time
from dataclasses import dataclass, field

from api.admission import Admission
from api.lifecycle import Lifecycle
from api.limits import Limits
from api.metrics import Metrics
from api.settings import Settings
from engine import Engine


@dataclass(frozen=True)
class AppContext:
    """Injected into every route as `context`."""

    settings: Settings
    engine: Engine
    lifecycle: Lifecycle
    limits: Limits
    admission: Admission
    metrics: Metrics
    created: int = field(default_factory=lambda: int(time.time()))
