"""The scheduler: order, slots, chunks and limits. No sequence is lost, doubled or given another's slot."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.scheduler import NEAR, Scheduler
from engine.sequence import Chunk, FinishReason, Sequence
from engine.windows import SAMPLE_RATE, SAMPLES_PER_FRAME

Play = Callable[..., list[Sequence]]


def request(request_id: int, frames: tuple[int, ...] = (10,), max_tokens: int | None = None) -> Sequence:
    """A sequence whose chunks may take so many frames."""
    chunks = [Chunk(prompt=[1] * (i + 1), max_frames=limit) for i, limit in enumerate(frames)]
    return Sequence(request_id, chunks, seed=100, max_tokens=max_tokens)


def play(scheduler: Scheduler, ends: dict[tuple[int, int], int] | None = None, turns: int = 100) -> list[Sequence]:
    """Runs until idle; -> sequences in the order in which they finished.

    `ends` says after how many frames a chunk (request, chunk) ends by itself.
    """
    finished = []
    for _ in range(turns):
        if scheduler.idle:
            return finished
        scheduler.schedule()
        running = scheduler.running
        ended = [(ends or {}).get((s.request_id, s.chunk)) == s.frames for s in running]
        for result in scheduler.postprocess(zip(running, ended, strict=True)):
            if result.last and not scheduler.next_chunk(result.sequence):
                finished.append(result.sequence)
    raise AssertionError("the scheduler never came to rest")


# ---- listeners


def quicker(few: int, many: int) -> bool:
    """A device for which every row counts."""
    return few < many


def listened(scheduler: Scheduler, request_id: int, seconds: float, now: float) -> Sequence:
    """A running sequence whose listener has so many seconds left."""
    sequence = request(request_id)
    scheduler.add(sequence)
    scheduler.schedule()
    sequence.heard_at, sequence.sent, sequence.prefilled = now - 1.0, round((seconds + 1.0) * SAMPLE_RATE), 1
    return sequence


def test_everybody_goes_on_while_nobody_waits_for_the_first_sound() -> None:
    scheduler = Scheduler(slots=4)
    sequences = [listened(scheduler, i, seconds, now=9.0) for i, seconds in enumerate((0.1, 30.0, -1.0))]
    assert scheduler.batch(9.0, quicker) == sequences


def test_who_waits_for_the_first_sound_goes_first_with_those_nearly_dry() -> None:
    scheduler = Scheduler(slots=4)
    rich, poor = listened(scheduler, 1, NEAR + 0.1, now=9.0), listened(scheduler, 2, NEAR - 0.1, now=9.0)
    new = request(3)
    scheduler.add(new)
    scheduler.schedule()
    assert scheduler.batch(9.0, quicker) == [poor, new]
    assert scheduler.batch(9.2, quicker) == [rich, poor, new]
    assert scheduler.batch(9.0, lambda few, many: (few, many) != (2, 3)) == [rich, poor, new]
    # What is in flight will be there in time.
    rich.flying = 3
    assert scheduler.batch(9.2, quicker) == [poor, new]


@pytest.mark.parametrize("seed", range(5))
def test_no_stream_is_late_because_others_start(seed: int) -> None:
    """Streams come all the time to a device that is nearly busy: a frame takes 10 ms and 1 ms a row."""
    chance, scheduler, now, late, waited = random.Random(seed), Scheduler(slots=64), 0.0, 0, []
    born: dict[int, float] = {}
    for turn in range(3000):
        if chance.random() < 0.15:
            born[turn] = now
            scheduler.add(request(turn, frames=(chance.randrange(20, 120),)))
        scheduler.schedule()
        batch = scheduler.batch(now, lambda few, many: 10 + few < 0.6 * (10 + many))
        now += 0.01 + 0.001 * len(batch)
        for result in scheduler.postprocess((sequence, False) for sequence in batch):
            sequence = result.sequence
            if sequence.frames == 3:
                sequence.heard_at = now
                waited.append(now - born[sequence.request_id])
            if sequence.frames >= 3:
                late += sequence.lead(now) < -0.001
                sequence.sent += SAMPLES_PER_FRAME
            if result.last:
                scheduler.next_chunk(sequence)
    assert len(waited) > 300
    assert late == 0
    # Three frames of everybody would take three times the largest batch's time.
    assert sorted(waited)[len(waited) // 2] < 0.1


# ---- order and slots


def test_requests_start_in_order_of_arrival() -> None:
    scheduler = Scheduler(slots=2)
    for request_id in range(5):
        scheduler.add(request(request_id, frames=(1,)))
    started = []
    while not scheduler.idle:
        started.append([sequence.request_id for sequence in scheduler.schedule()])
        for sequence in scheduler.running:
            scheduler.postprocess([(sequence, False)])
            scheduler.next_chunk(sequence)
    assert started == [[0, 1], [2, 3], [4]]


def test_running_is_in_slot_order_whatever_the_order_of_leaving() -> None:
    scheduler = Scheduler(slots=4)
    for request_id in range(4):
        scheduler.add(request(request_id))
    scheduler.schedule()
    scheduler.cancel(0)
    scheduler.cancel(2)
    for request_id in (7, 8):
        scheduler.add(request(request_id))
    scheduler.schedule()
    assert [sequence.slot for sequence in scheduler.running] == [0, 1, 2, 3]
    assert [sequence.request_id for sequence in scheduler.running] == [7, 1, 8, 3]


def test_a_slot_is_free_for_the_next_in_line_as_soon_as_a_sequence_ends() -> None:
    scheduler = Scheduler(slots=1)
    scheduler.add(request(1))
    scheduler.add(request(2))
    assert [sequence.request_id for sequence in scheduler.schedule()] == [1]
    assert scheduler.waiting == 1
    scheduler.postprocess([(scheduler.running[0], True)])
    assert not scheduler.next_chunk(scheduler.running[0])
    assert [sequence.request_id for sequence in scheduler.schedule()] == [2]
    assert scheduler.running[0].slot == 0


# ---- what a frame means


def test_a_spoken_frame_counts_and_an_end_does_not() -> None:
    scheduler = Scheduler(slots=2)
    scheduler.add(request(1))
    scheduler.add(request(2))
    scheduler.schedule()
    spoken, ended = scheduler.postprocess(zip(scheduler.running, (False, True), strict=True))
    assert (spoken.spoken, spoken.last, spoken.sequence.frames, spoken.sequence.tokens) == (True, False, 1, 7)
    assert (ended.spoken, ended.last, ended.sequence.frames, ended.sequence.tokens) == (False, True, 0, 0)


def test_speech_that_ends_by_itself_finishes_with_stop() -> None:
    scheduler = Scheduler(slots=1)
    scheduler.add(request(1))
    (sequence,) = play(scheduler, ends={(1, 0): 4})
    assert (sequence.finish_reason, sequence.tokens, sequence.cut) == (FinishReason.STOP, 28, None)


def test_speech_that_fills_its_frames_finishes_with_length() -> None:
    scheduler = Scheduler(slots=1)
    scheduler.add(request(1, frames=(5,)))
    (sequence,) = play(scheduler)
    assert (sequence.finish_reason, sequence.tokens, sequence.frames) == (FinishReason.LENGTH, 35, 5)


@pytest.mark.parametrize(("max_tokens", "tokens"), [(7, 7), (13, 7), (14, 14), (20, 14), (21, 21), (69, 63), (70, 70)])
def test_max_tokens_is_never_exceeded(max_tokens: int, tokens: int) -> None:
    scheduler = Scheduler(slots=1)
    scheduler.add(request(1, max_tokens=max_tokens))
    (sequence,) = play(scheduler)
    assert sequence.tokens == tokens <= max_tokens
    assert sequence.finish_reason == FinishReason.LENGTH


def test_max_tokens_counts_over_all_chunks_and_drops_the_rest() -> None:
    scheduler = Scheduler(slots=1)
    scheduler.add(request(1, frames=(10, 10, 10), max_tokens=7 * 7))
    (sequence,) = play(scheduler, ends={(1, 0): 4, (1, 1): 5})
    assert (sequence.chunk, sequence.frames, sequence.tokens) == (1, 3, 49)
    assert sequence.finish_reason == FinishReason.LENGTH


def test_speech_that_ends_right_at_max_tokens_in_an_earlier_chunk_still_says_length() -> None:
    scheduler = Scheduler(slots=1)
    scheduler.add(request(1, frames=(10, 10), max_tokens=28))
    (sequence,) = play(scheduler, ends={(1, 0): 4})
    assert (sequence.tokens, sequence.finish_reason) == (28, FinishReason.LENGTH)


# ---- chunks


def test_chunks_are_spoken_in_order_in_the_same_slot() -> None:
    scheduler = Scheduler(slots=3)
    for request_id in range(3):
        scheduler.add(request(request_id, frames=(3, 2, 4)))
    slots: dict[int, set[int | None]] = {}
    order: dict[int, list[int]] = {}
    while not scheduler.idle:
        scheduler.schedule()
        for sequence in scheduler.running:
            slots.setdefault(sequence.request_id, set()).add(sequence.slot)
            order.setdefault(sequence.request_id, []).append(sequence.chunk)
            (result,) = scheduler.postprocess([(sequence, False)])
            if result.last:
                scheduler.next_chunk(sequence)
    assert all(len(taken) == 1 for taken in slots.values())
    assert set(map(tuple, order.values())) == {(0, 0, 0, 1, 1, 2, 2, 2, 2)}


def test_a_chunk_starts_with_no_frames_and_its_own_seed_and_prompt() -> None:
    sequence = request(1, frames=(2, 3))
    scheduler = Scheduler(slots=1)
    scheduler.add(sequence)
    scheduler.schedule()
    assert (sequence.chunk_seed, sequence.length, sequence.input_tokens) == (100, 1, 3)
    scheduler.postprocess([(sequence, False)])
    assert sequence.length == 8
    scheduler.postprocess([(sequence, True)])
    assert scheduler.next_chunk(sequence)
    assert (sequence.frames, sequence.tokens, sequence.chunk_seed, sequence.length) == (0, 7, 101, 2)


def test_a_new_chunk_needs_its_prompt_read() -> None:
    sequence = Sequence(1, [Chunk([1] * 5, 2), Chunk([1] * 3, 2)], seed=0)
    scheduler = Scheduler(slots=1)
    scheduler.add(sequence)
    scheduler.schedule()
    assert scheduler.unready == [sequence]
    sequence.prefilled = 3
    assert scheduler.unready == [sequence]
    # The last token of a prompt goes in with the first frame.
    sequence.prefilled = 4
    assert scheduler.unready == []
    scheduler.postprocess([(sequence, True)])
    assert scheduler.next_chunk(sequence)
    assert scheduler.unready == [sequence]


def test_prompts_are_read_in_order_of_arrival_whatever_the_slot() -> None:
    scheduler = Scheduler(slots=3)
    for request_id in range(3):
        scheduler.add(Sequence(request_id, [Chunk([1] * 5, 2)], seed=0))
    scheduler.schedule()
    scheduler.cancel(0)
    scheduler.add(Sequence(7, [Chunk([1] * 5, 2)], seed=0))
    scheduler.schedule()
    assert [sequence.request_id for sequence in scheduler.unready] == [1, 2, 7]


def test_one_truncated_chunk_makes_the_request_end_with_length() -> None:
    scheduler = Scheduler(slots=1)
    scheduler.add(request(1, frames=(3, 10)))
    (sequence,) = play(scheduler, ends={(1, 1): 2})
    assert (sequence.tokens, sequence.finish_reason) == (35, FinishReason.LENGTH)


@pytest.mark.parametrize("seed", [2**63 - 1, 2**63 - 2, -(2**63), -1])
def test_chunk_seeds_stay_64_bit_numbers(seed: int) -> None:
    sequence = Sequence(1, [Chunk([1], 1)] * 4, seed=seed)
    seeds = []
    for chunk in range(4):
        sequence.chunk = chunk
        seeds.append(sequence.chunk_seed)
    assert seeds[0] == seed
    assert len(set(seeds)) == 4
    assert all(-(2**63) <= value < 2**63 for value in seeds)


# ---- cancelling


def test_cancel_of_a_waiting_request() -> None:
    scheduler = Scheduler(slots=1)
    for request_id in range(3):
        scheduler.add(request(request_id))
    scheduler.schedule()
    cancelled = scheduler.cancel(1)
    assert cancelled is not None
    assert (cancelled.request_id, cancelled.finish_reason, cancelled.slot) == (1, FinishReason.CANCELLED, None)
    scheduler.cancel(0)
    assert [sequence.request_id for sequence in scheduler.schedule()] == [2]


def test_cancel_of_a_running_request_frees_its_slot() -> None:
    scheduler = Scheduler(slots=1)
    scheduler.add(request(0))
    scheduler.add(request(1))
    scheduler.schedule()
    assert scheduler.cancel(0) is not None
    assert [sequence.request_id for sequence in scheduler.schedule()] == [1]


@pytest.mark.parametrize("request_id", [0, 1, 99])
def test_cancel_is_idempotent(request_id: int) -> None:
    scheduler = Scheduler(slots=1)
    scheduler.add(request(0))
    scheduler.add(request(1))
    scheduler.schedule()
    scheduler.cancel(request_id)
    assert scheduler.cancel(request_id) is None
    assert scheduler.cancel(99) is None


def test_cancel_after_the_end_is_nothing() -> None:
    scheduler = Scheduler(slots=1)
    scheduler.add(request(0, frames=(1,)))
    (sequence,) = play(scheduler)
    assert scheduler.cancel(0) is None
    assert sequence.finish_reason == FinishReason.LENGTH


# ---- a second take


def silent_take(scheduler: Scheduler, sequence: Sequence) -> None:
    """Its current chunk uses up all its frames."""
    while not scheduler.postprocess([(sequence, False)])[0].last:
        pass


def test_what_ended_the_first_take_is_not_told_of_the_second() -> None:
    scheduler = Scheduler(slots=1)
    scheduler.add(request(1, frames=(4, 4)))
    (sequence,) = scheduler.schedule()
    for _ in range(2):
        silent_take(scheduler, sequence)
        assert (sequence.cut, scheduler.again(sequence), sequence.cut) == (FinishReason.LENGTH, True, None)
        scheduler.postprocess([(sequence, True)])
        more = scheduler.next_chunk(sequence)
    assert (more, sequence.finish_reason) == (False, FinishReason.STOP)


def test_what_ended_an_earlier_chunk_still_is() -> None:
    scheduler = Scheduler(slots=1)
    scheduler.add(request(1, frames=(4, 4)))
    (sequence,) = scheduler.schedule()
    silent_take(scheduler, sequence)
    scheduler.next_chunk(sequence)
    silent_take(scheduler, sequence)
    assert scheduler.again(sequence)
    assert sequence.cut == FinishReason.LENGTH


# ---- waiting too long


def test_who_has_waited_too_long_gets_no_slot() -> None:
    scheduler = Scheduler(slots=1)
    sequences = [request(i) for i in range(4)]
    for sequence, deadline in zip(sequences, (1.0, 2.0, None, 5.0), strict=True):
        sequence.deadline = deadline
        scheduler.add(sequence)
    scheduler.schedule()
    # Not those that have a slot; and a slot that comes free in time is not one in time for everybody.
    assert scheduler.expire(1.9) == []
    scheduler.cancel(0)
    assert scheduler.expire(2.0) == [sequences[1]]
    assert (sequences[1].finish_reason, sequences[1].slot) == (FinishReason.EXPIRED, None)
    assert scheduler.schedule() == [sequences[2]]
    assert scheduler.expire(99.0) == [sequences[3]]
    assert scheduler.waiting == 0
    assert scheduler.running == [sequences[2]]


# ---- anything, in any order


class AnyOrder(RuleBasedStateMachine):
    """Arrivals, frames and cancels at random; the books are kept twice."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(slots=3)
        self.arrived: list[int] = []
        self.started: list[int] = []
        self.open: set[int] = set()
        self.done: dict[int, Sequence] = {}

    @rule(frames=st.lists(st.integers(1, 4), min_size=1, max_size=3), max_tokens=st.none() | st.integers(7, 60))
    def arrive(self, frames: list[int], max_tokens: int | None) -> None:
        request_id = len(self.arrived)
        self.arrived.append(request_id)
        self.open.add(request_id)
        self.scheduler.add(request(request_id, tuple(frames), max_tokens))

    @precondition(lambda self: not self.scheduler.idle)
    @rule(ends=st.lists(st.booleans(), min_size=3, max_size=3))
    def frame(self, ends: list[bool]) -> None:
        free = 3 - len(self.scheduler.running)
        waiting = self.scheduler.waiting
        started = self.scheduler.schedule()
        assert len(started) == min(free, waiting)
        self.started += [sequence.request_id for sequence in started]
        running = self.scheduler.running
        # No speech ends before its first frame.
        ended = [end and sequence.frames > 0 for sequence, end in zip(running, ends, strict=False)]
        results = self.scheduler.postprocess(zip(running, ended, strict=True))
        assert [result.sequence for result in results] == running
        for result in results:
            sequence = result.sequence
            assert sequence.frames <= sequence.current.max_frames
            assert sequence.max_tokens is None or sequence.tokens <= sequence.max_tokens
            if result.last and not self.scheduler.next_chunk(sequence):
                self.finish(sequence)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.integers(0, len(self.arrived)))
        sequence = self.scheduler.cancel(request_id)
        assert (sequence is not None) == (request_id in self.open)
        if sequence is not None:
            assert sequence.finish_reason == FinishReason.CANCELLED
            self.finish(sequence)

    def finish(self, sequence: Sequence) -> None:
        assert sequence.request_id not in self.done
        assert sequence.finish_reason is not None
        self.done[sequence.request_id] = sequence
        self.open.remove(sequence.request_id)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert self.open | set(self.done) == set(self.arrived)
        assert len(self.scheduler.running) + self.scheduler.waiting == len(self.open)
        assert self.scheduler.idle == (not self.open)

    @invariant()
    def slots_are_not_shared(self) -> None:
        slots = [sequence.slot for sequence in self.scheduler.running]
        assert slots == sorted(set(slots))  # type: ignore[type-var]
        assert set(slots) <= {0, 1, 2}

    @invariant()
    def first_come_first_served(self) -> None:
        assert self.started == sorted(self.started)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 4))
def test_everything_comes_to_rest(lengths: list[int], slots: int) -> None:
    scheduler = Scheduler(slots)
    for request_id, frames in enumerate(lengths):
        scheduler.add(request(request_id, (frames,)))
    finished = play(scheduler)
    assert sorted(sequence.request_id for sequence in finished) == list(range(len(lengths)))
    assert all(sequence.tokens == 7 * frames for sequence, frames in zip(
        sorted(finished, key=lambda sequence: sequence.request_id), lengths, strict=True
    ))  # fmt: skip
