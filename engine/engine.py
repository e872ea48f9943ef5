"""Engine: the asynchronous side in the server's process. Takes requests, and gives each to the least loaded device.

Nothing here imports torch. All methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from itertools import chain

import msgspec

from engine.config import EngineConfig, SamplingParams
from engine.devices import placed
from engine.errors import ConfigError, EngineOverloaded, EngineUnavailable, GenerationFailed, InvalidRequest
from engine.messages import ModelInfo
from engine.replica import Replica
from engine.request import Request, generate
from engine.stream import SpeechStream, silent_stream
from engine.suspects import Suspects
from engine.tally import Tally
from engine.text import Normaliser, chunks

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]


class Engine:
    """Text in, PCM out. `start()` before anything else, `stop()` at the end."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.tally = Tally()
        self._info: ModelInfo | None = None
        self._replicas: list[Replica] = []
        self._suspects = Suspects()
        self._turn = 0
        self._progress: Progress | None = None
        self._started = False
        self._draining = False
        self._stopping = False
        self._gave_up = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._next_id = 0

    @property
    def info(self) -> ModelInfo:
        """What is loaded, on all devices together. EngineUnavailable before the engine has been ready once."""
        if self._info is None:
            raise EngineUnavailable("the engine is still loading", retry_after=5.0)
        return self._info

    @property
    def ready(self) -> bool:
        """Whether a request would be taken now (if there is room): one device is enough."""
        return self._started and not self._draining and any(replica.ready for replica in self._replicas)

    @property
    def hung(self) -> bool:
        """Whether an engine process has work and says nothing, and no other one has taken its place yet."""
        return any(replica.hung for replica in self._replicas)

    @property
    def processes(self) -> Counter[str]:
        """How many engine processes are "ready", "loading" (for the first time or again) or "down" (given up, hung)."""
        return Counter(replica.state for replica in self._replicas)

    @property
    def slots(self) -> int:
        """Requests that can be spoken at once by the processes that are ready."""
        return sum(replica.slots for replica in self._replicas if replica.ready)

    @property
    def places(self) -> int:
        """Requests that all devices together take: slots and queues."""
        return sum(replica.places for replica in self._replicas)

    @property
    def running(self) -> int:
        """Requests that hold a slot, or are about to."""
        return sum(replica.running for replica in self._replicas)

    @property
    def waiting(self) -> int:
        """Requests in the queues."""
        return sum(replica.waiting for replica in self._replicas)

    async def start(self, progress: Progress | None = None) -> None:
        """Returns after a warm synthesis on every device that can be used.

        CheckpointError and ConfigError of any device, and EngineUnavailable of all of them, say why it cannot. A
        device whose process just dies is done without.
        """
        self._progress = progress
        configs = await placed(self.config)
        if self._stopping:
            raise EngineUnavailable("the engine has been stopped")
        for config in configs:
            name = f"the engine process on {config.device}" if self.config.devices else "the engine process"
            self._replicas.append(Replica(config, name, self._report, self._heard, self._salvage, self.tally))
        await self._loaded()
        if self._stopping:
            raise EngineUnavailable("the engine has been stopped")
        self._info = self._joint_info()
        self._started = True
        self._watch = asyncio.create_task(self._until_given_up())

    def check_room(self) -> None:
        """What `submit` would refuse whatever it is asked, for next to nothing: EngineOverloaded, EngineUnavailable."""
        if not self.ready:
            raise EngineUnavailable("the engine is not ready", self._back_in if self._started else 5.0)
        if not any(replica.has_room for replica in self._replicas):
            raise EngineOverloaded(self._room_in)

    def submit(
        self, text: str, voice: str, params: SamplingParams | None = None, normaliser: Normaliser | None = None
    ) -> SpeechStream:
        """Takes a request at once or refuses it: InvalidRequest, EngineOverloaded, EngineUnavailable.

        Of one that is taken, the text is put into words, by `normaliser` or the usual one. Without any word it is a
        short silence.
        """
        self.check_room()
        info = self.info
        if voice not in info.voices:
            raise InvalidRequest("voice", f"unknown voice {voice!r}; known: {', '.join(info.voices)}")
        if not text.strip():
            raise InvalidRequest("input", "there is nothing to say in the input")
        pieces = chunks((normaliser or Normaliser())(text), info.chunk_chars)
        if not pieces:
            return silent_stream()
        self._next_id += 1
        message = generate(self._next_id, pieces, voice, params or SamplingParams(), info, self.config)
        request = Request(message, SpeechStream(message.request_id, self._cancel, self.tally))
        self._dispatch(request)
        return request.stream

    async def drain(self, seconds: float) -> bool:
        """Takes no new requests and waits for the running ones; whether all of them ended in time."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty(), seconds)
        return not any(replica.requests for replica in self._replicas)

    async def stop(self) -> None:
        """Ends the processes; what still runs fails."""
        self._stopping, self._started = True, False
        await asyncio.gather(*(replica.stop() for replica in self._replicas))

    async def wait_failed(self) -> None:
        """Returns when the processes of every device have died too often and the engine has given up."""
        await self._gave_up.wait()

    async def _empty(self) -> None:
        while busy := [replica for replica in self._replicas if replica.requests]:
            await busy[0].idle.wait()

    # ---- the devices

    async def _loaded(self) -> None:
        """Until each replica is ready or has failed. Stops all and raises when that leaves none, or for good reason."""
        pending = {replica.started for replica in self._replicas}
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for error in filter(None, (start.exception() for start in done)):
                alive = pending or any(replica.info for replica in self._replicas)
                if not (isinstance(error, EngineUnavailable) and alive):
                    await self.stop()
                    raise self._of_setting(error)
                log.error("%s during the start; the engine goes on without it", error)

    def _of_setting(self, error: BaseException) -> BaseException:
        """A device from the list in `devices` is that setting's fault."""
        if self.config.devices and isinstance(error, ConfigError) and error.field == "device":
            return ConfigError("devices", error.message)
        return error

    async def _until_given_up(self) -> None:
        await asyncio.wait({replica.life for replica in self._replicas})
        if not self._stopping:
            self._gave_up.set()

    def _joint_info(self) -> ModelInfo:
        infos = [replica.info for replica in self._replicas if replica.info is not None]
        names = Counter(info.device for info in infos)
        return msgspec.structs.replace(
            infos[0],
            device=", ".join(name if count == 1 else f"{count} x {name}" for name, count in names.items()),
            slots=sum(info.slots for info in infos),
            load_seconds=max(info.load_seconds for info in infos),
        )

    def _report(self) -> None:
        loading = [replica for replica in self._replicas if not replica.started.done()]
        if loading and self._progress is not None:
            # The slowest one says how far all are.
            slowest = min(loading, key=lambda replica: replica.done)
            self._progress(slowest.stage, slowest.done)

    # ---- requests

    def _dispatch(self, request: Request) -> None:
        """To the least loaded device with room, in turn among equals. EngineOverloaded, EngineUnavailable."""
        turns = chain(self._replicas[self._turn :], self._replicas[: self._turn])
        open_ones = sorted((r for r in turns if r.has_room), key=lambda replica: replica.requests / replica.slots)
        for replica in open_ones:
            # One that has died this very moment does not take it.
            with contextlib.suppress(EngineUnavailable):
                replica.take(request)
                self._turn = (self._replicas.index(replica) + 1) % len(self._replicas)
                return
        if open_ones or not any(replica.ready for replica in self._replicas):
            raise EngineUnavailable("the engine process is gone", self._back_in)
        raise EngineOverloaded(self._room_in)

    @property
    def _room_in(self) -> float:
        """Seconds until a place should come free on one of the devices that are ready."""
        return min(replica.retry_after for replica in self._replicas if replica.ready)

    @property
    def _back_in(self) -> float:
        """Seconds until some device should be ready."""
        alive = [replica.back_in for replica in self._replicas if not replica.life.done()]
        return 1.0 if self.ready else min(alive, default=5.0)

    def _heard(self, request: Request) -> None:
        self._suspects.acquit(request.message)

    def _salvage(self, unheard: list[Request], queued: list[Request], why: str) -> None:
        """A process has died, or hangs. Who was queued there moves to another device that has room.

        Who had a slot may ask again, twice: if it is a request that kills, it is to kill no fourth process.
        """
        causes = self._suspects.note([request.message for request in unheard])
        for request, cause in zip(unheard, causes, strict=True):
            request.stream.fail(GenerationFailed(why) if cause else EngineUnavailable(why, self._back_in))
        for request in queued:
            try:
                if request.moved:
                    raise EngineUnavailable(why, self._back_in)
                self._dispatch(request.waited())
            except (EngineOverloaded, EngineUnavailable):
                request.stream.fail(EngineUnavailable(why, self._back_in))

    def _cancel(self, request_id: int) -> None:
        for replica in self._replicas:
            replica.cancel(request_id)
