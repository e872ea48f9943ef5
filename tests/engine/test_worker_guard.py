"""Models that lose their way, in the worker's loop: circles, silence, and no sound at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import EngineConfig
from engine.guard import Guard
from engine.messages import Failed, Finished, FromEngine, Generate, ToEngine
from engine.model.runner import ModelRunner
from engine.pauses import pause
from engine.scheduler import FrameResult
from engine.silence import LEAD
from engine.text import TextChunk
from engine.windows import SAMPLE_RATE
from engine.worker import Worker, guard_of
from tests.engine.test_worker import FRAME_BYTES, Script, generate
from tests.tiny import FIRST_AUDIO, TinyLlama

TEXT = "A text that is long enough to go on for a while."
LEAD_BYTES = 2 * SAMPLE_RATE // 20
# Of each chunk: which of its frames make a sound.
Sounds = Callable[[int, int], bool]


@pytest.fixture(scope="module")
def circling_model(llama_folder: Callable[[TinyLlama], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It knows no more than the rest of the last code by 5: without chance it soon goes round in a circle."""
    folder = tmp_path_factory.mktemp("circling") / "model"
    shutil.copytree(llama_folder(TinyLlama(tied=False)), folder)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("o_proj.weight"):
            tensor.zero_()
    embeddings = tensors["model.embed_tokens.weight"]
    codes = torch.arange(7 * 4096)
    embeddings[FIRST_AUDIO + codes] = embeddings[FIRST_AUDIO + codes % 5].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def load(native_codec: Path, kernel_cache: Path) -> Callable[[Path], ModelRunner]:
    def runner(model: Path) -> ModelRunner:
        return ModelRunner(
            EngineConfig(
                model=str(model), codec=str(native_codec), cache=str(kernel_cache), device="cpu", max_concurrency=3
            )
        )

    return runner


@pytest.fixture(scope="module")
def circling(load: Callable[[Path], ModelRunner], circling_model: Path) -> ModelRunner:
    return load(circling_model)


@pytest.fixture(scope="module")
def speaking(load: Callable[[Path], ModelRunner], tiny_model: Path) -> ModelRunner:
    """Speech that never ends by itself."""
    return load(tiny_model)


class Muted:
    """A runner some of whose audio is silent: `sounds(take, frame)` says of which frames it is not."""

    def __init__(self, runner: ModelRunner, sounds: Sounds) -> None:
        self._runner, self._sounds = runner, sounds

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)

    def speak(self, results: list[FrameResult], codes: torch.Tensor) -> list[bytes]:
        pcm = self._runner.speak(results, codes)
        takes = [2 * result.sequence.chunk + result.sequence.repeated for result in results]
        return [
            piece if self._sounds(take, result.sequence.frames) else bytes(len(piece))
            for take, result, piece in zip(takes, results, pcm, strict=True)
        ]


def run(runner: object, *messages: ToEngine, guard: Guard | None = None) -> Script:
    script = Script([list(messages)])
    Worker(script, runner, 3, guard=guard).run()  # type: ignore[arg-type]
    return script


def greedy(request_id: int, text: str = TEXT) -> Generate:
    return msgspec.structs.replace(generate(request_id, text, max_tokens=None), temperature=0.0, repetition_penalty=1.0)


def several(*texts: str, max_tokens: int | None = None) -> Generate:
    pieces = [TextChunk(text, 0.5) for text in texts]
    return msgspec.structs.replace(generate(1, max_tokens=max_tokens), chunks=pieces)


def finished(end: FromEngine) -> tuple[str, int]:
    assert isinstance(end, Finished)
    return end.reason, end.output_tokens // 7


# ---- circles


def test_a_model_in_a_circle_is_stopped_and_others_go_on(circling: ModelRunner) -> None:
    other = generate(2, TEXT, max_tokens=700)
    script = run(circling, greedy(1), other)
    reason, frames = finished(script.end(1))
    assert reason == "repetition"
    # A circle of five at most, and what led into it.
    assert 20 <= frames <= 30
    assert script.pcm(1)[-2:] == b"\0\0"
    assert script.pcm(2) == run(circling, other).pcm(2)


def test_its_next_chunk_is_spoken(circling: ModelRunner) -> None:
    request = msgspec.structs.replace(greedy(1), chunks=[TextChunk(TEXT, 0.5), TextChunk("More.", 0.0)])
    script = run(circling, request)
    reason, frames = finished(script.end(1))
    assert (reason, frames > 40) == ("repetition", True)
    assert pause(0.5, 0) in script.pcm(1)


def test_without_the_guard_it_goes_on_to_the_budget(circling: ModelRunner) -> None:
    end = run(circling, greedy(1, "Hi."), guard=Guard(3, loops=False)).end(1)
    assert finished(end) == ("length", circling.prompt("ana", "Hi.").max_frames)


def test_the_end_comes_at_the_same_sample_with_a_frame_in_flight(
    circling: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(circling, greedy(1), generate(2, max_tokens=140))
    monkeypatch.setattr(ModelRunner, "ahead", 1)
    ahead = run(circling, greedy(1), generate(2, max_tokens=140))
    assert ahead.pcm(1) == plain.pcm(1)
    assert ahead.end(1) == plain.end(1)


# ---- silence


def test_quiet_before_the_first_sound_is_cut_in_every_chunk(speaking: ModelRunner) -> None:
    request = several("One.", "Two.", max_tokens=None)
    whole = run(speaking, request).pcm(1)
    script = run(Muted(speaking, lambda take, frame: frame >= 10), request)
    budgets = [speaking.prompt("ana", text).max_frames for text in ("One.", "Two.")]
    assert finished(script.end(1)) == ("length", sum(budgets))
    # The tenth frame brings the audio from 10 * 2048 - 4757 - 2048 on.
    silent = 2 * (9 * 2048 - 4757)
    first, second = whole[: budgets[0] * FRAME_BYTES], whole[-budgets[1] * FRAME_BYTES :]
    gap = whole[len(first) : -len(second)]
    edge = audible_start_of(first, silent)
    assert edge < LEAD_BYTES, "random weights are never silent for long"
    heard = script.pcm(1)
    assert len(heard) == len(whole) - 2 * silent + 2 * LEAD_BYTES - edge - audible_start_of(second, silent)
    assert first[silent:] + gap in heard
    assert heard.endswith(second[silent:])


def audible_start_of(pcm: bytes, offset: int) -> int:
    """Bytes of quiet at `offset`."""
    samples = np.frombuffer(pcm[offset:], "<i2").astype(int)
    return 2 * int(np.flatnonzero(np.abs(samples) > 327)[0])


def test_a_chunk_that_falls_silent_is_given_up(speaking: ModelRunner) -> None:
    muted = Muted(speaking, lambda take, frame: take != 0 or frame < 8)
    script = run(muted, several(TEXT, "Two."))
    reason, frames = finished(script.end(1))
    budget = speaking.prompt("ana", "Two.").max_frames
    # 2.5 s are 30 frames.
    assert (reason, frames - budget) == ("silence", 37)
    heard = script.pcm(1)
    sound = 2 * (7 * 2048 - 4757)
    assert heard[sound:].startswith(bytes(2 * SAMPLE_RATE))
    assert len(heard) == pytest.approx(sound + 2 * SAMPLE_RATE + budget * FRAME_BYTES, abs=LEAD_BYTES)


def test_a_chunk_without_a_sound_is_spoken_once_more(speaking: ModelRunner) -> None:
    request = several("One.", max_tokens=None)
    script = run(Muted(speaking, lambda take, frame: take == 1), request)
    reason, frames = finished(script.end(1))
    budget = speaking.prompt("ana", "One.").max_frames
    assert (reason, frames) == ("length", 30 + 2 + budget)
    assert len(script.pcm(1)) == pytest.approx(budget * FRAME_BYTES, abs=LEAD_BYTES)
    assert script.pcm(1)[-1000:] != run(speaking, request).pcm(1)[-1000:], "other random numbers"
    assert run(Muted(speaking, lambda take, frame: take == 1), request).pcm(1) == script.pcm(1)


def test_one_silent_chunk_of_two_is_told(speaking: ModelRunner) -> None:
    script = run(Muted(speaking, lambda take, frame: take == 2), several("One.", "Two."))
    assert finished(script.end(1))[0] == "silence"
    # Without a pause before what is the first sound.
    assert script.pcm(1)[:2] != b"\0\0"


@pytest.mark.parametrize("trim", [True, False])
def test_no_sound_at_all_is_a_failure(speaking: ModelRunner, trim: bool) -> None:
    script = run(Muted(speaking, lambda take, frame: False), several("One.", "Two."), guard=Guard(3, trim=trim))
    assert script.end(1) == Failed(1, "the model made no sound for this text")
    assert script.pcm(1).strip(b"\0") == b""
    assert bool(script.pcm(1)) != trim


def test_max_tokens_are_not_exceeded_by_a_second_try(speaking: ModelRunner) -> None:
    script = run(Muted(speaking, lambda take, frame: False), several("One.", max_tokens=70))
    end = script.end(1)
    assert isinstance(end, Finished)
    # What was asked for, and not the model's failure: the end of its quiet is the answer.
    assert (end.reason, end.output_tokens) == ("length", 70)
    assert script.pcm(1) == bytes(2 * LEAD)


def test_random_weights_are_let_alone() -> None:
    guard = guard_of(EngineConfig(model="orpheus-3b", load_format="dummy", max_concurrency=3))
    assert guard.silence().heard
    silence = guard_of(EngineConfig(max_silence=4.0, trim_silence=False)).silence()
    assert (silence.trim, silence.limit, silence.heard) == (False, 4 * SAMPLE_RATE, False)
