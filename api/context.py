"""What the routes share: the settings, the engine, and the times that the server keeps about itself."""

import time
from dataclasses import dataclass, field

from api.lifecycle import Lifecycle
from api.settings import Settings
from engine import Engine


@dataclass(frozen=True)
class AppContext:
    """Injected into every route as `context`."""

    settings: Settings
    engine: Engine
    lifecycle: Lifecycle
    created: int = field(default_factory=lambda: int(time.time()))
