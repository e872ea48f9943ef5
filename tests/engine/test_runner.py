"""ModelRunner: from text to PCM in one process, and what it chooses to run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine import CheckpointError, ConfigError, EngineConfig, InvalidRequest
from engine.model.checkpoint import load_codec
from engine.model.flight import Flight
from engine.model.kernels.build import BuildError, build
from engine.model.runner import ModelRunner
from engine.scheduler import FrameResult
from engine.sequence import Sequence
from engine.text import frame_budget
from tests.engine.codec import whole_decode
from tests.engine.language import sampling
from tests.tiny import TinyLlama

FRAME_BYTES = 4096
Make = Callable[..., ModelRunner]


@pytest.fixture(scope="module")
def make(tiny_model: Path, native_codec: Path, kernel_cache: Path) -> Make:
    """`make(setting=value)`: a runner over the tiny model."""

    def runner(**settings: object) -> ModelRunner:
        usual = {
            "model": str(tiny_model), "codec": str(native_codec), "cache": str(kernel_cache), "device": "cpu",
            "max_concurrency": 4,
        }  # fmt: skip
        return ModelRunner(EngineConfig(**{**usual, **settings}))  # type: ignore[arg-type]

    return runner


@pytest.fixture(scope="module", params=["native", "torch"])
def runner(request: pytest.FixtureRequest, make: Make, small_codec: Path) -> ModelRunner:
    """On the CPU kernels, and on torch (there with the codec that torch is quick with)."""
    if request.param == "native":
        return make(cpu_kernel="native")
    return make(cpu_kernel="torch", codec=str(small_codec))


@pytest.fixture(scope="module")
def reference(
    runner: ModelRunner, small_codec: Path, native_codec: Path
) -> Callable[[list[list[int]], int], torch.Tensor]:
    """`reference(codes, seed)`: int16 samples of snac's whole decode."""
    model = load_codec(str(native_codec if runner.info.kernel == "native" else small_codec))

    def decode(codes: list[list[int]], seed: int) -> torch.Tensor:
        return (whole_decode(model, torch.tensor(codes), seed) * 32767).round().to(torch.int32)

    return decode


@dataclass
class Speech:
    """One sequence being spoken by a runner, without a scheduler."""

    sequence: Sequence
    frames: int
    joins: int = 0
    pcm: bytes = b""
    codes: list[list[int]] = field(default_factory=list)


def speak(runner: ModelRunner, speeches: list[Speech]) -> None:
    """Runs all speeches, each from its turn on, in one batch; a speech is flushed with its last frame."""
    for turn in range(max(speech.joins + speech.frames for speech in speeches)):
        for speech in speeches:
            if speech.joins == turn:
                runner.start(speech.sequence, sampling(seed=speech.sequence.seed))
        live = [speech for speech in speeches if speech.joins <= turn < speech.joins + speech.frames]
        frame = runner.decode_frame([speech.sequence for speech in live])
        assert not any(frame.ended)
        results = []
        for speech, codes in zip(live, frame.codes.tolist(), strict=True):
            speech.codes.append(codes)
            speech.sequence.frames += 1
            results.append(FrameResult(speech.sequence, spoken=True, last=speech.sequence.frames == speech.frames))
        for speech, pcm in zip(live, runner.speak(results, frame.codes), strict=True):
            speech.pcm += pcm


def speech(runner: ModelRunner, text: str, frames: int, seed: int = 1, slot: int = 0, joins: int = 0) -> Speech:
    return Speech(Sequence(1, [runner.prompt("ana", text)], seed, slot=slot), frames, joins)


def samples(pcm: bytes) -> torch.Tensor:
    assert len(pcm) % 2 == 0
    return torch.frombuffer(bytearray(pcm), dtype=torch.int16).to(torch.int32)


# ---- speech


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 9])
def test_pcm_is_the_whole_decode_of_the_codes(
    runner: ModelRunner, reference: Callable[[list[list[int]], int], torch.Tensor], frames: int
) -> None:
    said = speech(runner, "Hello.", frames, seed=frames)
    speak(runner, [said])
    assert len(said.pcm) == frames * FRAME_BYTES
    # Rounding to 16 bits may fall to either side.
    assert int((samples(said.pcm) - reference(said.codes, frames)).abs().max()) <= 4


def test_speech_in_a_batch_is_the_speech_alone(runner: ModelRunner) -> None:
    plan = [("Hello.", 9, 0, 3), ("Another text that is longer.", 4, 1, 0), ("Third", 1, 4, 1), ("Last", 6, 5, 2)]
    batch = [
        speech(runner, text, frames, seed=i, slot=slot, joins=joins)
        for i, (text, frames, joins, slot) in enumerate(plan)
    ]
    speak(runner, batch)
    for i, (text, frames, _, _) in enumerate(plan):
        alone = speech(runner, text, frames, seed=i)
        speak(runner, [alone])
        assert alone.codes == batch[i].codes
        assert len(alone.pcm) == len(batch[i].pcm) == frames * FRAME_BYTES
        if runner.info.kernel == "native":
            assert alone.pcm == batch[i].pcm
        else:
            assert int((samples(alone.pcm) - samples(batch[i].pcm)).abs().max()) <= 1


def test_the_first_audio_comes_with_the_third_frame(runner: ModelRunner) -> None:
    said = speech(runner, "Hello.", frames=5)
    heard = []
    runner.start(said.sequence, sampling(seed=1))
    for frame in range(5):
        decoded = runner.decode_frame([said.sequence])
        said.sequence.frames += 1
        (pcm,) = runner.speak([FrameResult(said.sequence, spoken=True, last=frame == 4)], decoded.codes)
        heard.append(len(pcm) // 2)
    assert heard == [0, 0, 3 * 2048 - 4757, 2048, 2048 + 4757]


def test_a_frame_that_ended_flushes_without_being_spoken(runner: ModelRunner) -> None:
    said, ending = speech(runner, "Hello.", frames=4, slot=0), speech(runner, "Hello.", frames=3, slot=1)
    for one in (said, ending):
        runner.start(one.sequence, sampling(seed=1))
    heard = [b"", b""]
    for turn in range(4):
        decoded = runner.decode_frame([said.sequence, ending.sequence])
        said.sequence.frames += 1
        ending.sequence.frames += turn < 3
        results = [
            FrameResult(said.sequence, spoken=True, last=turn == 3),
            FrameResult(ending.sequence, spoken=turn < 3, last=turn == 3),
        ]
        heard = [old + new for old, new in zip(heard, runner.speak(results, decoded.codes), strict=True)]
    assert [len(pcm) // FRAME_BYTES for pcm in heard] == [4, 3]
    alone = speech(runner, "Hello.", frames=3)
    speak(runner, [alone])
    assert int((samples(heard[1]) - samples(alone.pcm)).abs().max()) <= 1


def test_chunks_of_a_request_are_separate_utterances(runner: ModelRunner) -> None:
    texts = ("The first chunk.", "The second.")
    sequence = Sequence(1, [runner.prompt("ana", text) for text in texts], seed=40, slot=2)
    pcm = []
    for chunk in range(2):
        sequence.chunk, sequence.frames, sequence.prefilled = chunk, 0, 0
        part = Speech(sequence, frames=3)
        # The same sequence goes on in the same slot with the next chunk.
        runner.start(sequence, sampling(seed=sequence.chunk_seed))
        for _ in range(3):
            decoded = runner.decode_frame([sequence])
            sequence.frames += 1
            part.pcm += runner.speak([FrameResult(sequence, True, sequence.frames == 3)], decoded.codes)[0]
        pcm.append(part.pcm)
    for chunk, text in enumerate(texts):
        alone = speech(runner, text, frames=3, seed=40 + chunk)
        speak(runner, [alone])
        assert int((samples(alone.pcm) - samples(pcm[chunk])).abs().max()) <= 1


def test_a_prompt_taken_in_pieces_gives_the_same_speech(runner: ModelRunner) -> None:
    text = (
        "A prompt of more than a hundred tokens, so that it takes three pieces, with another stream's frames between."
    )
    whole, pieces, other = speech(runner, text, 4), speech(runner, text, 4, slot=1), speech(runner, "Other.", 9, slot=2)
    speak(runner, [whole])
    runner.start(other.sequence, sampling(seed=1))
    turns = 0
    while not pieces.sequence.ready:
        runner.prefill(pieces.sequence, sampling(seed=1))
        frame = runner.decode_frame([other.sequence])
        other.sequence.frames += 1
        other.pcm += runner.speak([FrameResult(other.sequence, spoken=True, last=False)], frame.codes)[0]
        turns += 1
    assert turns == (3 if runner.info.kernel == "native" else 1)
    for _ in range(4):
        frame = runner.decode_frame([pieces.sequence])
        pieces.sequence.frames += 1
        pieces.codes += frame.codes.tolist()
        pieces.pcm += runner.speak([FrameResult(pieces.sequence, True, pieces.sequence.frames == 4)], frame.codes)[0]
    assert pieces.codes == whole.codes
    assert pieces.pcm == whole.pcm


def test_threads_do_not_change_the_audio(make: Make) -> None:
    heard = []
    for threads in (1, 3):
        runner = make(cpu_threads=threads)
        batch = [speech(runner, f"Text number {i}.", frames=3 + i, seed=i, slot=i, joins=i % 2) for i in range(4)]
        speak(runner, batch)
        heard.append([said.pcm for said in batch])
    assert heard[0] == heard[1]


# ---- prompts


def test_a_prompt_has_room_for_its_budget_or_for_the_slot(runner: ModelRunner) -> None:
    short = runner.prompt("ana", "Hi.")
    assert short.max_frames == frame_budget("Hi.")
    long = runner.prompt("ana", "x" * 1000)
    assert len(long.prompt) == 1000 + len("ana: ") + 6
    assert long.max_frames == (2560 - len(long.prompt)) // 7 < frame_budget("x" * 1000)


def test_a_text_that_does_not_fit_a_slot_is_refused(runner: ModelRunner) -> None:
    fits = 2560 - 7 - len("ana: ") - 6
    assert runner.prompt("ana", "x" * fits).max_frames == 1
    with pytest.raises(InvalidRequest, match="2560") as caught:
        runner.prompt("ana", "x" * (fits + 1))
    assert caught.value.param == "input"


def test_a_text_that_fills_its_slot_is_spoken_to_the_last_frame(runner: ModelRunner) -> None:
    text = "x" * (2560 - 7 * 2 - len("ana: ") - 6)
    said = speech(runner, text, frames=2)
    assert said.sequence.current.max_frames == 2
    speak(runner, [said])
    assert len(said.pcm) == 2 * FRAME_BYTES


# ---- what it runs on


def test_info_says_what_is_loaded(make: Make, tiny_model: Path, native_codec: Path) -> None:
    info = make(max_concurrency=3).info
    assert (info.model, info.codec, info.demo) == (tiny_model.name, str(native_codec), False)
    assert (info.device, info.dtype, info.kernel, info.slots) == ("cpu", "float32", "native", 3)
    assert info.attention == "native"
    assert (info.sample_rate, info.max_context, info.voices) == (24_000, 2560, ["ana", "ben"])
    assert info.parameters == sum(tensor.numel() for tensor in load_file(tiny_model / "model.safetensors").values())
    assert info.load_seconds > 0


def test_progress_rises_from_0_to_1(tiny_model: Path, small_codec: Path) -> None:
    steps: list[tuple[str, float]] = []
    ModelRunner(
        EngineConfig(model=str(tiny_model), codec=str(small_codec), max_concurrency=1),
        progress=lambda stage, done: steps.append((stage, done)),
    )
    assert [done for _, done in steps] == sorted(done for _, done in steps)
    assert steps[0][1] == 0.0
    assert all(0.0 <= done <= 1.0 for _, done in steps)
    assert [stage for stage, _ in steps] == [
        "checkpoint", "weights: 1 of 2", "weights: 2 of 2", "codec", "warm synthesis"
    ]  # fmt: skip


def test_the_context_is_no_longer_than_the_model_was_made_for(make: Make) -> None:
    assert make(max_context=300).context == 300
    assert make(max_context=100_000, max_concurrency=1).context == 4096


@pytest.mark.parametrize(("kernel", "name"), [("auto", "native"), ("native", "native"), ("torch", "torch")])
def test_bf16_weights_run_on_both_kernels(
    make: Make, llama_folder: Callable[[TinyLlama], Path], kernel: str, name: str
) -> None:
    folder = llama_folder(TinyLlama(dtype=torch.bfloat16, seed=3))
    info = make(model=str(folder), cpu_kernel=kernel).info
    assert (info.kernel, info.dtype) == (name, "bfloat16")


def test_torchs_attention_can_be_asked_for(make: Make, small_codec: Path) -> None:
    info = make(attention="sdpa", codec=str(small_codec)).info
    assert (info.kernel, info.attention) == ("torch", "sdpa")
    with pytest.raises(ConfigError, match="attention is sdpa") as caught:
        make(attention="sdpa", cpu_kernel="native")
    assert caught.value.field == "cpu_kernel"


@pytest.mark.parametrize("attention", ["triton", "flash"])
def test_a_gpus_attention_is_not_for_the_cpu(make: Make, small_codec: Path, attention: str) -> None:
    with pytest.raises(ConfigError, match="not a GPU") as caught:
        make(device="cpu", attention=attention, codec=str(small_codec))
    assert caught.value.field == "attention"


def test_a_type_can_be_asked_for(make: Make) -> None:
    assert make(dtype="bfloat16").info.dtype == "bfloat16"


def test_a_codec_that_does_not_fit_the_kernel_runs_on_torch(make: Make, small_codec: Path) -> None:
    assert make(codec=str(small_codec)).info.kernel == "torch"
    with pytest.raises(ConfigError, match="dimensions") as caught:
        make(codec=str(small_codec), cpu_kernel="native")
    assert caught.value.field == "cpu_kernel"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_device_that_is_not_there_is_named(make: Make, device: str) -> None:
    with pytest.raises(ConfigError, match="CUDA") as caught:
        make(device=device)
    assert caught.value.field == "device"


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_the_cpu_is_always_there(make: Make, device: str) -> None:
    assert make(device=device).info.device == "cpu"


def test_a_missing_demo_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engine.model.loading.DEMO_CHECKPOINT", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere"):
        ModelRunner(EngineConfig())


# ---- the compiler


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`compiler(script)`: the only program on the PATH is a `cc` that runs a shell script; none for an empty one."""

    def install(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        if script:
            (folder / "cc").write_text(f"#!/bin/sh\n{script}\n")
            (folder / "cc").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return install


BROKEN_COMPILERS = {"none": "", "one that fails": "echo it is broken >&2; exit 1"}


@pytest.mark.parametrize("script", BROKEN_COMPILERS.values(), ids=BROKEN_COMPILERS)
def test_without_a_compiler_torch_serves(
    make: Make, compiler: Callable[[str], None], tmp_path: Path, script: str
) -> None:
    compiler(script)
    assert make(cache=str(tmp_path / "cache")).info.kernel == "torch"
    with pytest.raises(ConfigError, match=r"no C compiler|it is broken"):
        make(cache=str(tmp_path / "cache"), cpu_kernel="native")
    assert not list(tmp_path.glob("cache/*"))


def test_a_compiled_kernel_that_cannot_be_loaded_leaves_torch_serving(
    make: Make, compiler: Callable[[str], None], tmp_path: Path
) -> None:
    # What a home that forbids execution, or a compiler for another machine, amounts to.
    compiler('while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"')
    assert make(cache=str(tmp_path / "cache")).info.kernel == "torch"


def test_a_cache_that_cannot_be_written_leaves_torch_serving(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert make(cache=str(tmp_path / "file" / "cache")).info.kernel == "torch"


def test_kernels_are_compiled_once(kernel_cache: Path, tmp_path: Path, compiler: Callable[[str], None]) -> None:
    library = build(kernel_cache)
    assert [path.name for path in kernel_cache.iterdir()] == [library.name]
    assert build(kernel_cache) == library
    # For another compiler they are compiled anew.
    compiler("exit 1")
    with pytest.raises(BuildError):
        build(kernel_cache)
    assert [path.name for path in kernel_cache.iterdir()] == [library.name]


def test_codes_that_lie_where_numpy_cannot_look_are_copied() -> None:
    """As those of a model on a GPU that makes no copy beside its work: this tensor cannot be looked at either."""
    codes = torch.arange(7.0, requires_grad=True)[None]
    with pytest.raises(RuntimeError):
        codes.numpy()
    assert Flight(codes, torch.zeros(1)).heard.tolist() == [list(range(7))]
