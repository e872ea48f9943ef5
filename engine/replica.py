"""Replica: one engine process as the server keeps it, from its start until it is given up, and the requests it has.

All methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engine.assigned import Assigned
from engine.config import EngineConfig
from engine.errors import EngineError, EngineUnavailable, GenerationFailed
from engine.link import ServerLink
from engine.lives import Lives
from engine.messages import (
    Audio,
    Broken,
    Cancel,
    Failed,
    Finished,
    FromEngine,
    Loading,
    ModelInfo,
    Ready,
    Started,
    Stepped,
    Stop,
)
from engine.process import end_worker, ended, start_error, start_worker
from engine.request import Request, by_slot
from engine.tally import Tally
from engine.watchdog import Watchdog

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0  # how long the worker may take to leave before it is killed, and then before it is done without
LOOK_SECONDS = 1.0  # at most between two looks at a silent process


class Replica:
    """Starts its process, watches it, and starts it again when it dies or hangs, a few times.

    `on_progress()` is called when `stage` and `done` have changed, `on_heard(request)` when its audio begins.
    `on_loss(unheard, queued, why)` gets the requests of a process that was lost, but for those that have been heard:
    who had a slot may be the cause, who was queued has broken nothing. `tally` counts its work, and its restarts by
    cause: death or hang. `hung` is true from the time that a process is found silent, with work or while it loads
    again, until another one takes its place.
    """

    def __init__(
        self, config: EngineConfig, name: str, on_progress: Callable[[], None], on_heard: Callable[[Request], None],
        on_loss: Callable[[list[Request], list[Request], str], None], tally: Tally,
    ) -> None:  # fmt: skip
        self.config, self.name = config, name
        self.info: ModelInfo | None = None
        self.stage, self.done = "starting", 0.0
        self.hung = False
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.life = asyncio.create_task(self._supervise())
        self.life.add_done_callback(self._ended)
        self._on_progress, self._on_loss, self._tally = on_progress, on_loss, tally
        self._assigned = Assigned(on_heard)
        self._link: ServerLink | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._watchdog = Watchdog(config.hang_timeout)
        self._lives = Lives()
        self._staged = time.monotonic()

    @property
    def ready(self) -> bool:
        """Whether its process takes requests."""
        return self._link is not None and not self._stopping.is_set()

    @property
    def state(self) -> str:
        """ready; loading, for the first time or again; or down: given up, or hanging."""
        return "down" if self.hung or self.life.done() else "ready" if self.ready else "loading"

    @property
    def slots(self) -> int:
        """Requests that it speaks at once."""
        return self.info.slots if self.info else self.config.max_concurrency

    @property
    def requests(self) -> int:
        """Requests that it has, in slots and in its queue."""
        return len(self._assigned)

    @property
    def idle(self) -> asyncio.Event:
        """Set while it has none."""
        return self._assigned.idle

    @property
    def running(self) -> int:
        """Requests that hold a slot, or are about to. Safe to ask from any thread, as `waiting` is."""
        return min(self.requests, self.slots)

    @property
    def waiting(self) -> int:
        """Requests in its queue."""
        return max(0, self.requests - self.slots)

    @property
    def places(self) -> int:
        """Requests that it takes: slots and queue."""
        return self.slots + self.config.max_queue

    @property
    def has_room(self) -> bool:
        """Whether a request may be given to it."""
        return self.ready and self.requests < self.places

    @property
    def retry_after(self) -> float:
        """Seconds until a place should be free, from how long requests have been taking."""
        return self._assigned.retry_after(self.slots)

    @property
    def back_in(self) -> float:
        """Seconds until its process should be ready again, from how long it took the last time."""
        return self._lives.back_in

    def take(self, request: Request) -> None:
        """Begins a request. EngineUnavailable when the process has died this very moment."""
        if self._link is None:
            raise EngineUnavailable("the engine is not ready", retry_after=5.0)
        self._link.send(request.message)
        if not self._assigned:
            self._watchdog.rest()
        self._assigned.add(request)

    def cancel(self, request_id: int) -> None:
        """Stops a request, if it is one of its own. The slot counts as taken until the process says that it is free."""
        if request_id in self._assigned and self._link is not None:
            with contextlib.suppress(EngineUnavailable):
                self._link.send(Cancel(request_id))

    async def stop(self) -> None:
        """Ends the process; what still runs fails."""
        self._stopping.set()
        if self._link is not None:
            with contextlib.suppress(EngineUnavailable):
                self._link.send(Stop())
        else:
            # Still loading: nothing runs, and it would not look at a message for seconds.
            self._kill()
        await asyncio.wait({self.life}, timeout=STOP_SECONDS)
        self._kill()
        # Longer only for a process that the kernel does not let go.
        await asyncio.wait({self.life}, timeout=STOP_SECONDS)
        self.life.cancel()
        await asyncio.wait({self.life})

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    # ---- its life

    async def _supervise(self) -> None:
        """Runs processes, one after another, until told to stop or until they die too often."""
        while not self._stopping.is_set():
            self.hung = False
            self._lives.born()
            error = await self._run()
            self._lose_requests(str(error))
            if not self.started.done():
                # It never was ready: starting it again would change nothing.
                self._fail_start(error)
                return
            if self._stopping.is_set():
                return
            if self._lives.losses > self.config.max_restarts:
                log.error("%s died %d times in a row; giving up", self.name, self._lives.losses)
                return
            self._tally.restarts["hang" if self.hung else "death"] += 1
            log.error("%s; restart %d of %d", error, self._lives.losses, self.config.max_restarts)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._lives.pause)

    def _ended(self, life: asyncio.Task[None]) -> None:
        """However that came: nobody waits for what will not come any more."""
        broken = None if life.cancelled() else life.exception()
        self.hung = False
        self._lose_requests("the engine has stopped")
        if not self.started.done():
            self._fail_start(broken or EngineUnavailable("the engine has been stopped"))
        elif broken is not None:
            log.error("%s is given up: %s", self.name, broken, exc_info=broken)

    def _fail_start(self, error: BaseException) -> None:
        self.started.set_exception(error)
        # Looked at, so that asyncio does not complain when another replica's error has ended the wait for all.
        self.started.exception()

    async def _run(self) -> EngineError:
        """One process from birth to death; -> why it ended."""
        try:
            with tempfile.TemporaryDirectory(prefix="lyre-") as folder:
                link = ServerLink(Path(folder))
                try:
                    return await self._watch(link)
                finally:
                    self._link = None
                    link.close()
        except OSError as error:
            return EngineUnavailable(f"{self.name} cannot be started: {error}", retry_after=10.0)

    async def _watch(self, link: ServerLink) -> EngineError:
        process = await start_worker(self.config, link.worker_inbox, link.worker_outbox)
        self._process, self._staged = process, time.monotonic()
        self._watchdog = Watchdog(self._lives.load_limit if self.config.hang_timeout else 0.0)
        died = asyncio.create_task(ended(process))
        silence = asyncio.create_task(self._until_hung(link, died))
        failure: EngineError | None = None
        try:
            async for batch in link.batches(died):
                self._watchdog.rest()
                for message in batch:
                    if isinstance(message, Broken):
                        failure = start_error(message)
                    else:
                        self._note(message, link)
        except asyncio.CancelledError:
            # The server leaves at once: nobody has asked the process to.
            self._kill()
            raise
        finally:
            silence.cancel()
            died.cancel()
            await end_worker(process, STOP_SECONDS)
        if self.hung:
            return EngineUnavailable(f"{self.name} hung and was killed", retry_after=self.back_in)
        return failure or EngineUnavailable(f"{self.name} ended with status {process.returncode}", retry_after=10.0)

    def _note(self, message: FromEngine, link: ServerLink) -> None:
        match message:
            case Audio():
                self._assigned.hear(message)
            case Stepped():
                self._tally.step(message.streams, message.seconds)
            case Started():
                self._assigned.begin(message.request_id)
            case Finished() | Failed():
                self._assigned.finish(message, self.slots, self.config.queue_timeout)
            case Loading():
                self.stage, self.done, self._staged = message.stage, message.done, time.monotonic()
                self._on_progress()
            case Ready():
                self.info, self._link = message.info, link
                self._lives.ready()
                self._watchdog = Watchdog(self.config.hang_timeout)
                # The warm synthesis is the last stage.
                self._watchdog.expect(time.monotonic() - self._staged)
                if not self.started.done():
                    self.started.set_result(None)

    async def _until_hung(self, link: ServerLink, died: asyncio.Task[int]) -> None:
        """Ends a process that says nothing though it has work. Its requests end here, whether it goes away or not.

        One that the kernel does not let go is not waited for: `died` is cancelled.
        """
        while True:
            # Often, even while the limit is a long one: that of its work, once it has loaded, is shorter.
            await asyncio.sleep(min(self._watchdog.interval, LOOK_SECONDS))
            if not self._busy:
                self._watchdog.rest()
            elif self._watchdog.hung() and not link.unread():
                break
        doing = "while it loads" if self._link is None else "with work to do"
        self.hung, self._link = True, None
        why = f"{self.name} has said nothing for {self._watchdog.limit:.3g} s, {doing}"
        log.error("%s; it is killed", why)
        self._kill()
        self._lose_requests(why)
        await asyncio.wait({died}, timeout=STOP_SECONDS)
        died.cancel()

    @property
    def _busy(self) -> bool:
        """Whether it owes a word: it has requests, or loads again. Who starts the server watches the first load."""
        return self.started.done() if self._link is None else bool(self._assigned)

    def _lose_requests(self, why: str) -> None:
        """The process is gone. Whose audio has begun breaks off; of all others the engine decides."""
        self._lives.lost()
        inside, queued = by_slot(self._assigned.lose(), self.slots, self.hung)
        unheard = [request for request in inside if not request.stream.audio_seconds]
        self._on_loss(unheard, [request for request in queued if request.stream.finish_reason is None], why)
        for request in inside:
            request.stream.fail(GenerationFailed(why))
