"""The engine's life beside the listening server: loaded in the background, watched, drained, stopped."""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Final

from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope

from engine import Engine, EngineUnavailable

log = logging.getLogger("lyre")

_COUNT: Final = re.compile(r": \d+ of \d+$")


class Lifecycle:
    """Starts the engine in a task of its own, so that health routes answer while the model loads.

    `on_progress` is told each stage and the share that is done; `on_ready` is called once the engine can speak,
    `on_failure` when it never will (again).
    """

    def __init__(
        self,
        engine: Engine,
        on_ready: Callable[[], None] = lambda: None,
        on_failure: Callable[[BaseException], None] = lambda error: None,
        on_progress: Callable[[str, float], None] = lambda stage, done: None,
    ) -> None:
        self.engine = engine
        self.stage = "starting"
        self.done = 0.0
        self.draining = False
        self.failure: BaseException | None = None
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._on_progress = on_progress
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """One word: loading, ready, draining, failed, or unavailable (the engine is being restarted)."""
        if self.failure is not None:
            return "failed"
        if self.draining:
            return "draining"
        if self.engine.ready:
            return "ready"
        return "unavailable" if self.stage == "ready" else "loading"

    def start(self) -> None:
        """Begin to load."""
        self._task = asyncio.create_task(self._run(), name="engine")
        self._task.add_done_callback(self._ended)

    async def drain(self, seconds: float) -> bool:
        """Take no new requests and wait for the running ones; True when all of them ended."""
        self.draining = True
        return await self.engine.drain(seconds) if self.engine.ready else True

    async def stop(self) -> None:
        """End the engine, loaded or not."""
        self.draining = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.engine.stop()

    async def mark_response(self, message: Message, scope: Scope) -> None:
        """Litestar's before_send hook: what is asked next during the drain is better asked elsewhere."""
        if self.draining and message["type"] == "http.response.start":
            MutableScopeHeaders.from_message(message)["connection"] = "close"

    async def _run(self) -> None:
        await self.engine.start(self._progress)
        self.stage = "ready"
        self._on_ready()
        await self.engine.wait_failed()
        raise EngineUnavailable("the engine died too often and was given up")

    def _progress(self, stage: str, done: float) -> None:
        self._on_progress(stage, done)
        # Of a stage that counts, one line is enough.
        stage = _COUNT.sub("", stage)
        if stage != self.stage:
            log.info("loading: %s", stage)
        self.stage, self.done = stage, done

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failure = error
            self._on_failure(error)
