"""The engine process: receive, schedule, run, postprocess, send; for ever.

Started by engine.engine as `python -m engine.worker IN OUT CONFIG`. Leaves when told to, and when its parent is gone
(standard input ends).
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import msgspec

from engine.config import EngineConfig
from engine.errors import CheckpointError, ConfigError, InvalidRequest
from engine.guard import Guard
from engine.link import WorkerLink
from engine.messages import (
    Audio,
    Broken,
    Cancel,
    Failed,
    Finished,
    FromEngine,
    Generate,
    Loading,
    Ready,
    Started,
    Stepped,
    Stop,
)
from engine.model.flight import Flight
from engine.model.runner import ModelRunner
from engine.model.slots import Sampling
from engine.pace import Pace
from engine.pauses import pause
from engine.scheduler import FrameResult, Scheduler
from engine.sequence import FinishReason, Sequence
from engine.windows import SAMPLE_RATE, SAMPLES_PER_FRAME

BYTES_PER_SECOND = 2 * SAMPLE_RATE
LEAD_BYTES = 2 * SAMPLES_PER_FRAME
Take = tuple[int, int]
BRIDGE = 1.5  # how many times what passes at most between frames


class Worker:
    """One loop over the scheduler and the runner."""

    def __init__(
        self,
        link: WorkerLink,
        runner: ModelRunner,
        slots: int,
        clock: Callable[[], float] = time.monotonic,
        guard: Guard | None = None,
    ) -> None:
        self._link, self._runner, self._clock = link, runner, clock
        self._guard = guard or Guard(slots)
        self._pace = Pace()
        self._outgoing: list[FromEngine] = []
        self._scheduler = Scheduler(slots)
        self._sampling: dict[int, Sampling] = {}
        # Frames in flight, oldest first, each with whose they are: a sequence and which take of it.
        self._flights: deque[tuple[Flight, list[tuple[Sequence, Take]]]] = deque()

    def run(self) -> None:
        """Until `Stop`. An error in a step is fatal: every open request fails, then the process ends with it."""
        while True:
            for message in self._link.receive(None if self._scheduler.idle else self._patience()):
                match message:
                    case Generate():
                        self._accept(message)
                    case Cancel():
                        self._cancel(message.request_id)
                    case Stop():
                        return
            self._expire()
            self._flush()
            if self._scheduler.idle:
                self._flights.clear()
                self._pace.forget()
            else:
                self._step()

    def _patience(self) -> float:
        """Seconds that the next launch can wait for new requests, which then need not wait for the frame after it."""
        return self._pace.patience(self._clock()) if self._runner.ahead else 0.0

    def _step(self) -> None:
        self._outgoing += [Started(sequence.request_id) for sequence in self._scheduler.schedule()]
        # Before the prompts are worked on: the time in the queue ends here.
        self._flush()
        self._prefill()
        if self._patience() > 0:
            return
        launched = self._launch(self._scheduler.batch(self._clock(), self._pace.quicker))
        if self._flights and (len(self._flights) > self._runner.ahead or not launched):
            self._land(*self._flights.popleft())

    def _launch(self, sequences: list[Sequence]) -> bool:
        if sequences:
            self._pace.launched(len(sequences), self._clock())
            flight = self._runner.launch(sequences)
            self._flights.append((flight, [(sequence, sequence.take) for sequence in sequences]))
            for sequence in sequences:
                sequence.flying += 1
        return bool(sequences)

    def _land(self, flight: Flight, passengers: list[tuple[Sequence, Take]]) -> None:
        """Passes on what a frame brought to those who still want it: others ended while it was in the air."""
        ended = flight.land()
        seconds = self._pace.landed(self._clock(), flight.seconds)
        self._outgoing.append(Stepped(len(passengers), seconds))
        rows = [row for row, (s, take) in enumerate(passengers) if s.finish_reason is None and s.take == take]
        for row in rows:
            passengers[row][0].flying -= 1
        brought = self._scheduler.postprocess((passengers[row][0], ended[row]) for row in rows)
        results = [FrameResult(sequence, spoken=False, last=False) for sequence, _ in passengers]
        for row, result in zip(rows, brought, strict=True):
            results[row] = result
        pcm = self._runner.speak(results, flight.codes)
        heard = self._guard.hear(brought, flight.heard[rows], [pcm[row] for row in rows])
        verdicts = dict(zip(rows, heard, strict=True))
        # Who has not been heard yet goes first: the server turns to its streams in this order.
        new = [row for row in rows if passengers[row][0].heard_at is None]
        for part in (new, [row for row in rows if row not in new]):
            for row in part:
                result, (piece, cut) = results[row], verdicts[row]
                over = result.last or cut is not None
                self._emit(result.sequence, piece, at_once=over or len(rows) == 1)
                if over:
                    self._go_on(result.sequence, cut)
            if part:
                self._flush()

    def _prefill(self) -> None:
        """All prompts together where that is quick; else a piece of one a turn while others are listened to."""
        unready = self._scheduler.unready
        if self._runner.ahead:
            self._runner.start_all([(sequence, self._sampled(sequence)) for sequence in unready])
            return
        for sequence in unready:
            alone = not any(other.ready for other in self._scheduler.running)
            (self._runner.start if alone else self._runner.prefill)(sequence, self._sampled(sequence))
            if not alone:
                return

    def _sampled(self, sequence: Sequence) -> Sampling:
        """How its current chunk is drawn."""
        return replace(self._sampling[sequence.request_id], seed=sequence.chunk_seed)

    def _go_on(self, sequence: Sequence, cut: FinishReason | None) -> None:
        """From a chunk that is over, or was `cut`, to the next one, after a pause, or to the end."""
        silence, wanted = sequence.silence, sequence.current.pause
        if not silence.begun:
            # Nothing of it was sent: other random numbers may do better.
            if silence.trim and self._scheduler.again(sequence):
                silence.next_chunk()
                return
            if sequence.spent:
                # Its own `max_tokens` ended the request before it made a sound: the quiet is what it asked for.
                self._emit(sequence, silence.kept, at_once=True)
                silence.heard = True
            else:
                cut = cut or FinishReason.SILENCE
        sequence.cut = sequence.cut or cut
        silence.next_chunk()
        if not self._scheduler.next_chunk(sequence):
            self._finished(sequence)
        elif silence.heard:
            filling = pause(wanted, silence.passed)
            silence.passed += len(filling) // 2
            self._emit(sequence, filling, at_once=True)

    def _emit(self, sequence: Sequence, pcm: bytes, at_once: bool) -> None:
        """Sends what is ready. A stream among others starts with as much in hand as bridges the time to the next."""
        sequence.held += pcm
        if sequence.held and (at_once or sequence.heard_at is not None or len(sequence.held) >= self._bridge()):
            if sequence.heard_at is None:
                sequence.heard_at = self._clock()
            self._outgoing.append(Audio(sequence.request_id, sequence.held, sequence.tokens))
            sequence.sent += len(sequence.held) // 2
            sequence.held = b""

    def _bridge(self) -> float:
        """Bytes that last until the next frame of all streams; without a device of its own always a frame's."""
        if not self._runner.ahead:
            return LEAD_BYTES
        return min(LEAD_BYTES, BRIDGE * self._pace.longest(len(self._scheduler.running)) * BYTES_PER_SECOND)

    def _accept(self, message: Generate) -> None:
        try:
            chunks = [
                replace(self._runner.prompt(message.voice, chunk.text), pause=chunk.pause) for chunk in message.chunks
            ]
        except InvalidRequest as error:
            self._outgoing.append(Failed(message.request_id, error.message, error.param))
            return
        except Exception as error:  # noqa: BLE001 - a tokenizer may raise anything, and the others' speech goes on
            # By its kind alone: what it says may quote the text.
            sys.stderr.write(f"a text broke the tokenizer: {type(error).__name__}\n")
            self._outgoing.append(Failed(message.request_id, "the text cannot be turned into tokens"))
            return
        self._sampling[message.request_id] = Sampling(
            temperature=message.temperature,
            top_p=message.top_p,
            top_k=message.top_k,
            repetition_penalty=message.repetition_penalty,
            window=message.repetition_window,
            seed=message.seed,
        )
        silence = self._guard.silence()
        deadline = None if message.patience is None else self._clock() + message.patience
        self._scheduler.add(
            Sequence(message.request_id, chunks, message.seed, message.max_tokens, silence=silence, deadline=deadline)
        )

    def _expire(self) -> None:
        """Whoever has waited too long never reaches the model."""
        if self._scheduler.waiting:
            for sequence in self._scheduler.expire(self._clock()):
                self._finished(sequence)

    def _cancel(self, request_id: int) -> None:
        sequence = self._scheduler.cancel(request_id)
        if sequence is not None:
            self._finished(sequence)

    def _finished(self, sequence: Sequence) -> None:
        del self._sampling[sequence.request_id]
        reason = sequence.finish_reason
        assert reason is not None
        if reason in (FinishReason.CANCELLED, FinishReason.EXPIRED) or sequence.silence.heard:
            end = Finished(sequence.request_id, reason, sequence.input_tokens, sequence.tokens)
        else:
            end = Failed(sequence.request_id, "the model made no sound for this text")
        self._outgoing.append(end)

    def _flush(self) -> None:
        """One frame of the socket for all that has come together: its price is the same for one stream or hundreds."""
        if self._outgoing:
            self._link.send(self._outgoing)
            self._outgoing = []


def guard_of(config: EngineConfig) -> Guard:
    """As it is set. Random weights speak no language: whatever they say is sent."""
    if config.load_format == "dummy":
        return Guard(config.max_concurrency, trim=False, max_silence=0.0, loops=False, soundless=True)
    return Guard(config.max_concurrency, config.trim_silence, config.max_silence, config.loop_guard)


def leave_with_parent() -> None:
    """Ends this process when standard input does: its other end is the server's, and the server is gone.

    A thread, not a poll: it works as well while a step hangs.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(inbox: str, outbox: str, config_json: str) -> int:
    """Exit status 0 after `Stop`, 1 when the engine cannot start or a step breaks; the latter with a traceback."""
    leave_with_parent()
    link = WorkerLink(inbox, outbox)
    try:
        return _serve(link, config_json)
    except BaseException:  # noqa: BLE001 - whatever it was, nothing is served after it
        traceback.print_exc()
        link.last_words()
        # At once and without any clean-up: with a device that has failed that may hang, or fail in its turn.
        os._exit(1)


def _serve(link: WorkerLink, config_json: str) -> int:
    try:
        config = msgspec.json.decode(config_json, type=EngineConfig)
        runner = ModelRunner(config, progress=lambda stage, done: link.send([Loading(stage, done)]))
    except (CheckpointError, ConfigError) as error:
        link.send([Broken(type(error).__name__, str(error), getattr(error, "field", None))])
        return 1
    link.send([Ready(runner.info)])
    Worker(link, runner, config.max_concurrency, guard=guard_of(config)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
