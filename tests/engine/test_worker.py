"""The worker's loop over the real scheduler and models: messages in, messages out, turn by turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import msgspec
import pytest

from engine import EngineConfig
from engine.guard import audible_ends
from engine.messages import Audio, Cancel, Failed, Finished, FromEngine, Generate, Started, Stepped, Stop, ToEngine
from engine.model.runner import ModelRunner
from engine.model.slots import Sampling
from engine.pauses import pause
from engine.sequence import Chunk, Sequence
from engine.text import TextChunk, chunks, frame_budget
from engine.worker import Worker

FRAME_BYTES = 4096
SEVERAL = "The first sentence of a text is here. " * 12  # four chunks


@dataclass
class Script:
    """In place of the sockets: what arrives at each turn, and what was sent. Leaves when all has come to rest."""

    turns: list[list[ToEngine]]
    sent: list[FromEngine] = field(default_factory=list)
    frames: list[list[FromEngine]] = field(default_factory=list)  # the same, as it was sent together

    def receive(self, patience: float | None) -> list[ToEngine]:
        if self.turns:
            return self.turns.pop(0)
        return [Stop()] if patience is None else []

    def send(self, messages: list[FromEngine]) -> None:
        self.sent.extend(messages)
        self.frames.append(list(messages))

    def pcm(self, request_id: int) -> bytes:
        return b"".join(m.pcm for m in self.sent if isinstance(m, Audio) and m.request_id == request_id)

    def end(self, request_id: int) -> Finished | Failed:
        ends = [m for m in self.sent if isinstance(m, Finished | Failed) and m.request_id == request_id]
        assert len(ends) == 1
        assert not [
            m for m in self.sent[self.sent.index(ends[0]) :] if isinstance(m, Audio) and m.request_id == request_id
        ]
        return ends[0]

    def ended(self) -> list[int]:
        """Requests in the order of their ends."""
        return [m.request_id for m in self.sent if isinstance(m, Finished | Failed)]


Run = Callable[..., Script]


@pytest.fixture(scope="module")
def load(native_codec: Path, kernel_cache: Path) -> Callable[[Path], ModelRunner]:
    def runner(model: Path) -> ModelRunner:
        return ModelRunner(
            EngineConfig(
                model=str(model), codec=str(native_codec), cache=str(kernel_cache), device="cpu", max_concurrency=9
            )
        )

    return runner


@pytest.fixture(scope="module")
def endless(load: Callable[[Path], ModelRunner], tiny_model: Path) -> ModelRunner:
    """Speech that never ends by itself."""
    return load(tiny_model)


@pytest.fixture(scope="module")
def ending(load: Callable[[Path], ModelRunner], ending_model: Path) -> ModelRunner:
    """Speech that ends by itself after some frames."""
    return load(ending_model)


def run(
    runner: ModelRunner, *turns: list[ToEngine], slots: int = 2, clock: Callable[[], float] | None = None
) -> Script:
    """On a clock that counts how often it is read: who waits for whom follows from the times that frames take."""
    script = Script(list(turns))
    Worker(script, runner, slots, clock or partial(next, count(step=0.001))).run()  # type: ignore[arg-type]
    return script


def generate(
    request_id: int, text: str = "Hi.", seed: int = 1, max_tokens: int | None = 42, voice: str = "ana"
) -> Generate:
    return Generate(request_id, chunks(text), voice, 0.7, 0.95, 0, 1.1, 0, seed, max_tokens)


# ---- one request


def test_a_request_is_spoken_and_finished(endless: ModelRunner) -> None:
    script = run(endless, [generate(7)])
    assert script.end(7) == Finished(7, "length", input_tokens=len("ana: Hi.") + 6, output_tokens=42)
    assert len(script.pcm(7)) == 6 * FRAME_BYTES
    tokens = [message.tokens for message in script.sent if isinstance(message, Audio)]
    assert tokens == sorted(tokens)
    assert tokens[-1] == 42


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_server_is_told_who_has_a_slot_and_what_each_frame_took(
    endless: ModelRunner, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setattr(ModelRunner, "ahead", ahead)
    script = run(endless, [generate(1), generate(2)], slots=1)
    kinds = [(type(m), m.request_id) for m in script.sent if isinstance(m, Started | Finished)]
    assert kinds == [(Started, 1), (Finished, 1), (Started, 2), (Finished, 2)]
    for request_id in (1, 2):
        mine = [type(m) for m in script.sent if getattr(m, "request_id", None) == request_id]
        assert mine[0] is Started
    steps = [m for m in script.sent if isinstance(m, Stepped)]
    assert [m.streams for m in steps][:12] == [1] * 12
    assert len(steps) >= 12
    assert all(m.seconds > 0 for m in steps)


def test_a_frames_count_costs_no_message_of_its_own(endless: ModelRunner) -> None:
    script = run(endless, [generate(i) for i in (1, 2)], slots=2)
    heard = next(i for i, frame in enumerate(script.frames) if any(isinstance(m, Audio) for m in frame))
    assert not [frame for frame in script.frames[heard:] if all(isinstance(m, Stepped) for m in frame)]


@pytest.mark.parametrize("turns", [1, 3])
def test_a_frame_launched_ahead_changes_nothing(
    ending: ModelRunner, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    requests = [generate(i, text=SEVERAL if i == 2 else "Hi.", seed=i, max_tokens=(None, 42)[i % 2]) for i in range(5)]
    script = [requests[:turns], [], requests[turns:]]
    plain = run(ending, *script, slots=2)
    monkeypatch.setattr(ModelRunner, "ahead", 1)
    ahead = run(ending, *script, slots=2)
    for request in requests:
        assert ahead.pcm(request.request_id) == plain.pcm(request.request_id) != b""
        assert ahead.end(request.request_id) == plain.end(request.request_id)


def test_a_request_cancelled_with_a_frame_in_flight(endless: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = run(endless, [generate(2)]).pcm(2)
    monkeypatch.setattr(ModelRunner, "ahead", 1)
    script = run(endless, [generate(1, max_tokens=None)], [], [], [Cancel(1), generate(2)], slots=1)
    assert script.end(1).reason == "cancelled"  # type: ignore[union-attr]
    assert script.pcm(2) == alone


def test_speech_that_ends_by_itself(ending: ModelRunner) -> None:
    script = run(ending, [generate(i, seed=i, max_tokens=None) for i in range(8)], slots=4)
    lengths = []
    for i in range(8):
        end = script.end(i)
        assert isinstance(end, Finished)
        assert end.reason == "stop"
        assert len(script.pcm(i)) == end.output_tokens // 7 * FRAME_BYTES > 0
        lengths.append(end.output_tokens)
    assert len(set(lengths)) > 3


def test_the_frame_budget_ends_a_runaway(endless: ModelRunner) -> None:
    end = run(endless, [generate(1, max_tokens=None)]).end(1)
    assert isinstance(end, Finished)
    assert (end.reason, end.output_tokens) == ("length", 7 * frame_budget("Hi."))


@pytest.mark.parametrize("max_tokens", [7, 13, 14, 100])
def test_max_tokens_is_never_exceeded(endless: ModelRunner, max_tokens: int) -> None:
    end = run(endless, [generate(1, max_tokens=max_tokens)]).end(1)
    assert isinstance(end, Finished)
    assert (end.reason, end.output_tokens) == ("length", max_tokens // 7 * 7)


# ---- several chunks


def test_chunks_are_spoken_one_after_another(ending: ModelRunner) -> None:
    pieces = chunks(SEVERAL)
    assert len(pieces) == 4
    script = run(ending, [generate(1, SEVERAL, seed=20, max_tokens=None)])
    alone = b""
    for i, piece in enumerate(pieces):
        request = generate(1, piece.text, seed=20 + i, max_tokens=None)
        pcm = run(ending, [msgspec.structs.replace(request, chunks=[TextChunk(piece.text, 0.0)])]).pcm(1)
        alone += pcm + pause(piece.pause, len(pcm) // 2 - 1 - audible_ends([pcm])[0])
    assert script.pcm(1) == alone
    end = script.end(1)
    assert isinstance(end, Finished)
    assert end.input_tokens == sum(len("ana: ") + len(piece.text) + 6 for piece in pieces)


def test_other_requests_go_on_while_a_chunk_changes(ending: ModelRunner) -> None:
    together = run(ending, [generate(1, SEVERAL, max_tokens=None), generate(2, "Other.", max_tokens=None)])
    for request_id, text in ((1, SEVERAL), (2, "Other.")):
        assert together.pcm(request_id) == run(ending, [generate(request_id, text, max_tokens=None)]).pcm(request_id)


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63)])
def test_the_borders_of_the_seeds_work_in_every_chunk(ending: ModelRunner, seed: int) -> None:
    end = run(ending, [generate(1, SEVERAL, seed=seed, max_tokens=None)]).end(1)
    assert isinstance(end, Finished)
    assert end.reason == "stop"


# ---- many requests


def test_more_requests_than_slots_are_served_in_order(endless: ModelRunner) -> None:
    script = run(endless, [generate(i) for i in range(5)], slots=2)
    first_heard = list(dict.fromkeys(m.request_id for m in script.sent if isinstance(m, Audio)))
    assert first_heard == [0, 1, 2, 3, 4]
    assert script.ended() == [0, 1, 2, 3, 4]
    assert all(len(script.pcm(i)) == 6 * FRAME_BYTES for i in range(5))


@pytest.mark.parametrize("model", ["endless", "ending"])
def test_the_same_seed_gives_the_same_audio_alone_and_among_eight_others(
    request: pytest.FixtureRequest, model: str
) -> None:
    runner = request.getfixturevalue(model)
    target = generate(99, "The same words.", seed=1234, max_tokens=140)
    alone = run(runner, [target]).pcm(99)
    others = [generate(i, f"Other words {'and more ' * i}.", seed=i, max_tokens=70 + 14 * i) for i in range(8)]
    crowd = run(runner, others[:3], [], others[3:5], [target], [], others[5:], slots=9)
    assert crowd.pcm(99) == alone
    assert sorted(crowd.ended()) == [*range(8), 99]


def test_another_voice_or_seed_gives_other_audio(endless: ModelRunner) -> None:
    heard = {run(endless, [generate(1, voice=voice, seed=seed)]).pcm(1) for voice in ("ana", "ben") for seed in (1, 2)}
    assert len(heard) == 4


def test_a_long_prompt_is_taken_in_pieces_while_others_are_heard(endless: ModelRunner) -> None:
    prompt = "a " * 100  # some 200 tokens: five pieces
    script = run(endless, [generate(1, max_tokens=140)], [], [], [generate(2, prompt, max_tokens=42)])
    order = [message.request_id for message in script.sent if isinstance(message, Audio)]
    between = order[3 : order.index(2)]
    assert len(between) >= 3, "the first stream goes on while the second one's prompt is read"
    assert script.pcm(2) == run(endless, [generate(2, prompt, max_tokens=42)]).pcm(2)
    assert script.pcm(1) == run(endless, [generate(1, max_tokens=140)]).pcm(1)


def test_one_piece_of_one_prompt_is_read_between_two_frames(endless: ModelRunner) -> None:
    prompts = [generate(request_id, "a " * 100, max_tokens=42) for request_id in (2, 3)]
    # On a clock so quick that the first stream's listener is never far behind.
    script = run(endless, [generate(1, max_tokens=280)], [], [], prompts, slots=3, clock=partial(next, count()))
    order = [message.request_id for message in script.sent if isinstance(message, Audio)]
    first_heard = [order[: order.index(request_id)].count(1) for request_id in (2, 3)]
    # Five pieces each, one a turn: the second prompt's turn comes when the first one has been read.
    assert first_heard[1] - first_heard[0] >= 4


def first_piece(script: Script, request_id: int) -> int:
    return next(len(m.pcm) for m in script.sent if isinstance(m, Audio) and m.request_id == request_id)


def test_a_stream_among_others_starts_with_a_frame_in_hand(endless: ModelRunner) -> None:
    alone = run(endless, [generate(1)])
    crowd = run(endless, [generate(1, max_tokens=140)], [], [], [], [generate(2)])
    assert first_piece(alone, 1) < FRAME_BYTES <= first_piece(crowd, 2)


def test_on_a_quick_device_it_starts_with_what_bridges_a_frame(
    endless: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelRunner, "ahead", 1)
    turns: list[list[ToEngine]] = [[generate(1, max_tokens=140)], [], [], [], [], [generate(2)]]
    slow = run(endless, *turns, clock=partial(next, count(step=0.04)))
    quick = run(endless, *turns, clock=partial(next, count(step=0.001)))
    assert first_piece(slow, 1) == first_piece(quick, 1) == first_piece(quick, 2) < FRAME_BYTES <= first_piece(slow, 2)


def test_streams_far_ahead_of_their_listeners_let_a_new_one_go_first(endless: ModelRunner) -> None:
    early = [generate(1, max_tokens=280), generate(2, max_tokens=280)]
    script = run(endless, early, *([[]] * 20), [generate(3)], slots=3, clock=lambda: 0.0)
    ids = [m.request_id for m in script.sent if isinstance(m, Audio)]
    new = ids.index(3)
    # Its first frames came without a frame for the others between them, and these got all of theirs in the end.
    assert ids[new - 1 : new + 1] == [2, 3]
    assert len(script.pcm(1)) == len(script.pcm(2)) == 40 * FRAME_BYTES
    assert ids[:new].count(1) == 21 - 3


def test_a_short_request_among_others_is_heard_to_its_end(endless: ModelRunner) -> None:
    script = run(
        endless, [generate(1, max_tokens=140)], [], [], [generate(2, max_tokens=7), generate(3, max_tokens=14)], slots=3
    )
    assert (len(script.pcm(2)), len(script.pcm(3))) == (FRAME_BYTES, 2 * FRAME_BYTES)


def test_a_landed_frame_goes_out_at_once_and_first_to_those_who_have_heard_nothing(endless: ModelRunner) -> None:
    turns = [[generate(i, max_tokens=140) for i in (1, 2, 3)], *[[]] * 6, [generate(4)]]
    # On a clock so quick that nobody is far enough ahead to wait for the fourth.
    script = run(endless, *turns, slots=4, clock=partial(next, count(step=0.1)))
    audio = [[m.request_id for m in frame if isinstance(m, Audio)] for frame in script.frames]
    first = audio.index([4])
    assert audio[first - 1 : first + 3] == [[1, 2, 3], [4], [1, 2, 3], [1, 2, 3, 4]]
    assert all(len(set(frame)) == len(frame) for frame in audio)
    last = next(frame for frame in script.frames if Finished(4, "length", len("ana: Hi.") + 6, 42) in frame)
    assert [type(m) for m in last if isinstance(m, Audio | Finished) and m.request_id == 4] == [Audio, Finished]


# ---- cancelling


def test_a_cancelled_request_frees_its_slot_for_the_next(endless: ModelRunner) -> None:
    script = run(endless, [generate(1, max_tokens=None), generate(2)], [], [], [], [Cancel(1)], slots=1)
    assert script.ended() == [1, 2]
    end = script.end(1)
    assert isinstance(end, Finished)
    assert (end.reason, end.output_tokens) == ("cancelled", 4 * 7)
    assert script.pcm(2) == run(endless, [generate(2)]).pcm(2)


def test_a_waiting_request_can_be_cancelled(endless: ModelRunner) -> None:
    script = run(endless, [generate(1), generate(2)], [Cancel(2)], slots=1)
    assert script.ended() == [2, 1]
    assert script.pcm(2) == b""
    assert script.end(2) == Finished(2, "cancelled", len("ana: Hi.") + 6, 0)


def test_a_request_cancelled_in_the_turn_of_its_arrival(endless: ModelRunner) -> None:
    script = run(endless, [generate(1), Cancel(1), generate(2)])
    assert script.ended() == [1, 2]
    assert script.pcm(1) == b""


def prefilled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Requests whose prompts reach the model, in order."""
    reached: list[int] = []
    prefill = ModelRunner.prefill

    def record(self: ModelRunner, sequence: Sequence, sampling: Sampling) -> None:
        reached.append(sequence.request_id)
        prefill(self, sequence, sampling)

    monkeypatch.setattr(ModelRunner, "prefill", record)
    return reached


def test_who_left_before_the_turn_never_reaches_the_model(
    endless: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = prefilled(monkeypatch)
    # A slot is free for the first, one comes free for the third in the very turn in which it leaves.
    script = run(
        endless,
        [generate(1), Cancel(1), generate(2, max_tokens=None), generate(3)],
        [],
        [Cancel(2), Cancel(3), generate(4, max_tokens=7)],
        slots=1,
    )
    assert set(reached) == {2, 4}
    assert [script.end(i).reason for i in (1, 2, 3)] == ["cancelled"] * 3  # type: ignore[union-attr]


def test_who_waited_too_long_never_reaches_the_model(endless: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = prefilled(monkeypatch)
    late = msgspec.structs.replace(generate(2), patience=0.002)
    patient = msgspec.structs.replace(generate(3, max_tokens=7), patience=1000.0)
    script = run(endless, [generate(1, max_tokens=70), late, patient], slots=1)
    assert script.end(2) == Finished(2, "expired", len("ana: Hi.") + 6, 0)
    assert script.ended() == [2, 1, 3]
    assert set(reached) == {1, 3}


def test_a_text_that_breaks_the_tokenizer_ends_nobody_else(
    endless: ModelRunner, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    prompt = endless.prompt

    def fragile(voice: str, text: str) -> Chunk:
        if "secret" in text:
            raise ValueError(f"cannot read {text!r}")
        return prompt(voice, text)

    monkeypatch.setattr(endless, "prompt", fragile)
    script = run(endless, [generate(1), generate(2, text="A secret.")])
    failed = script.end(2)
    assert isinstance(failed, Failed)
    assert failed.param is None
    assert len(script.pcm(1)) == 6 * FRAME_BYTES
    told = capfd.readouterr().err
    assert "ValueError" in told
    assert "secret" not in told + failed.message


def test_cancelling_what_is_unknown_or_over_does_nothing(endless: ModelRunner) -> None:
    script = run(
        endless, [Cancel(5), generate(1), Cancel(5)], *[[] for _ in range(8)], [Cancel(1), Cancel(1)], [Cancel(1)]
    )
    assert script.ended() == [1]


def test_a_request_cancelled_between_two_chunks_does_not_come_back(endless: ModelRunner) -> None:
    script = run(
        endless, [generate(1, SEVERAL, max_tokens=7 * 2000)], *[[] for _ in range(5)], [Cancel(1)], [generate(2)]
    )
    assert script.ended() == [1, 2]


# ---- what goes wrong


def test_a_text_that_does_not_fit_fails_alone(endless: ModelRunner) -> None:
    too_long = Generate(1, [TextChunk("x" * 3000, 0.0)], "ana", 0.7, 0.95, 0, 1.1, 0, 1, None)
    script = run(endless, [generate(2), too_long, generate(3)])
    end = script.end(1)
    assert isinstance(end, Failed)
    assert end.param == "input"
    assert script.ended() == [1, 2, 3]


def test_stop_leaves_at_once(endless: ModelRunner) -> None:
    script = run(endless, [generate(1, max_tokens=None)], [], [], [Stop()])
    assert script.ended() == []
