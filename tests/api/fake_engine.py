"""An engine with the real one's interface and scripted speech: a sine in chunks, as slow or broken as a test wants."""

import asyncio
import math
import struct
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from engine import (
    EngineConfig,
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    GenerationFailed,
    ModelInfo,
    Normaliser,
    SamplingParams,
)
from engine.messages import SamplingDefaults
from engine.tally import Tally
from engine.timings import Timings

CHUNK = 2048
RATE = 24_000


def sine(samples: int, start: int = 0) -> bytes:
    """s16le mono, 220 Hz."""
    values = [round(12_000 * math.sin(2 * math.pi * 220 * (start + i) / RATE)) for i in range(samples)]
    return struct.pack(f"<{samples}h", *values)


SPEECH = [sine(CHUNK, start=CHUNK * index) for index in range(12)]


@dataclass
class Plan:
    """How the next requests go. `hold` blocks before chunk number `hold_at` until the test sets it."""

    chunks: int = len(SPEECH)
    delay: float = 0.0
    fail_at: int | None = None
    error: EngineError = field(default_factory=lambda: GenerationFailed("the engine broke"))
    hold_at: int | None = None
    hold: threading.Event = field(default_factory=threading.Event)
    endless: bool = False


class FakeStream:
    """The audio of one request."""

    def __init__(self, engine: "FakeEngine", request_id: int, text: str, voice: str, params: SamplingParams) -> None:
        self.engine = engine
        self.plan = replace(engine.plan)
        self.request_id = request_id
        self.text, self.voice, self.params = text, voice, params
        self.normaliser: Normaliser | None = None
        self.finish_reason: str | None = None
        self.input_tokens = len(text)
        self.output_tokens = 0
        self.audio_seconds = 0.0
        self.timings = Timings(engine.tally)
        self.cancelled = threading.Event()
        self.ended = threading.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        plan = self.plan
        index = 0
        while plan.endless or index < plan.chunks:
            await self._wait_before(index)
            if plan.fail_at == index:
                self._end("failed")
                raise plan.error
            self.timings.start()
            self.timings.audio(SPEECH[index % len(SPEECH)])
            self.engine.tally.step(1, 0.01)
            self.output_tokens += 7
            self.audio_seconds += CHUNK / RATE
            yield SPEECH[index % len(SPEECH)]
            index += 1
        if plan.fail_at is not None and plan.fail_at >= index:
            self._end("failed")
            raise plan.error
        self._end("stop")

    async def _wait_before(self, index: int) -> None:
        await asyncio.sleep(self.plan.delay)
        while self in self.engine.queue or (self.plan.hold_at == index and not self.plan.hold.is_set()):
            await asyncio.sleep(0.002)

    def cancel(self) -> None:
        """Idempotent; a no-op when finished."""
        if not self.ended.is_set():
            self.cancelled.set()
            self._end("cancelled")

    def _end(self, reason: str) -> None:
        self.finish_reason = reason
        self.ended.set()
        self.engine.leave(self)


class FakeEngine:
    """Two voices, a few slots, no model."""

    def __init__(self, config: EngineConfig | None = None, voices: tuple[str, ...] = ("tara", "leo")) -> None:
        self.config = config or EngineConfig(max_concurrency=16, max_queue=16)
        self.voices = list(voices)
        self.tally = Tally()
        self.plan = Plan()
        self.streams: list[FakeStream] = []
        self.active: list[FakeStream] = []
        self.queue: list[FakeStream] = []
        self.may_start = threading.Event()
        self.may_start.set()
        self.start_error: EngineError | None = None
        self.gave_up = threading.Event()
        self.stopped = threading.Event()
        self.draining = False
        self.ready = False
        self.demo = True
        self.hung = False

    async def start(self, progress: Callable[[str, float], None] | None = None) -> None:
        """Ready as soon as `may_start` is set."""
        if progress is not None:
            progress("weights: 1 of 8", 0.125)
            progress("weights: 2 of 8", 0.25)
        while not self.may_start.is_set():
            await asyncio.sleep(0.002)
        if self.start_error is not None:
            raise self.start_error
        self.ready = True

    @property
    def info(self) -> ModelInfo:
        """As a loaded demo voice has it."""
        if not self.ready:
            raise EngineUnavailable("the model is loading", retry_after=3)
        return ModelInfo(
            model="lyre-demo" if self.demo else "acme/voice",
            codec="snac",
            demo=self.demo,
            voices=self.voices,
            defaults=SamplingDefaults(0.6, 0.9, 0, 1.1, 0),
            sample_rate=RATE,
            device="cpu",
            dtype="float32",
            kernel="fake",
            attention="fake",
            slots=self.config.max_concurrency,
            max_context=2560,
            parameters=1,
            load_seconds=0.1,
        )

    @property
    def places(self) -> int:
        """Requests that it takes."""
        return self.config.max_concurrency + self.config.max_queue

    def check_room(self) -> None:
        """A refusal, or nothing."""
        if not self.ready:
            raise EngineUnavailable("the model is loading", retry_after=3)
        if self.draining:
            raise EngineUnavailable("the engine does not run", retry_after=None)
        if len(self.active) >= self.config.max_concurrency and len(self.queue) >= self.config.max_queue:
            raise EngineOverloaded(retry_after=1.4)

    @property
    def processes(self) -> Counter[str]:
        """One."""
        return Counter(["ready" if self.ready else "loading"])

    @property
    def slots(self) -> int:
        """Requests that can be spoken at once."""
        return self.config.max_concurrency if self.ready else 0

    @property
    def running(self) -> int:
        """Requests that speak."""
        return len(self.active)

    @property
    def waiting(self) -> int:
        """Requests that queue."""
        return len(self.queue)

    def submit(self, text: str, voice: str, params: SamplingParams, normaliser: Normaliser | None = None) -> FakeStream:
        """A slot, a place in the queue, or a refusal."""
        self.check_room()
        stream = FakeStream(self, len(self.streams), text, voice, params)
        stream.normaliser = normaliser
        self.streams.append(stream)
        (self.active if len(self.active) < self.config.max_concurrency else self.queue).append(stream)
        return stream

    def leave(self, stream: FakeStream) -> None:
        """Free the slot or the place of a stream that ended."""
        if stream in self.queue:
            self.queue.remove(stream)
        elif stream in self.active:
            self.active.remove(stream)
            if self.queue:
                self.active.append(self.queue.pop(0))

    async def wait_failed(self) -> None:
        """Returns when the test says that the engine gave up."""
        while not self.gave_up.is_set():
            await asyncio.sleep(0.005)
        self.ready = False

    async def drain(self, seconds: float) -> bool:
        """Refuse new work, wait for what runs."""
        self.draining = True
        deadline = time.monotonic() + seconds
        while (self.active or self.queue) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        return not self.active and not self.queue

    async def stop(self) -> None:
        """Not ready any more."""
        self.ready = False
        self.stopped.set()
