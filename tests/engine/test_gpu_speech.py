"""Speech made on the GPU: the same in any batch, as on the CPU, and streamed as it is decoded whole."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from snac import SNAC
from torch import Tensor

from engine.config import EngineConfig
from engine.model.checkpoint import dummy_codec
from engine.model.gpu_codec import Decoder, gpu_codec
from engine.model.runner import ModelRunner
from engine.model.slots import Sampling
from engine.model.snac import NO_END
from engine.model.snac_layers import codebook_tables, snac_layers
from engine.scheduler import FrameResult
from engine.sequence import Sequence
from engine.windows import SAMPLES_PER_FRAME, flush_frames, window
from tests.engine.codec import whole_decode
from tests.engine.language import GREEDY, sampling

DEVICE = torch.device("cuda")
FRAMES = 60
TEXT = "The first words are heard before the last ones exist."

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def decibels(heard: Tensor, expected: Tensor) -> float:
    """Between the sound and the difference to it."""
    error = (heard.double() - expected.double()).square().sum()
    return float(10 * torch.log10(expected.double().square().sum() / error))


# ---- the demo voice


@dataclass
class Said:
    """One stream's codes and samples."""

    sequence: Sequence
    settings: Sampling
    codes: list[list[int]] = field(default_factory=list)
    pcm: bytes = b""
    ended: bool = False

    @property
    def samples(self) -> Tensor:
        return torch.frombuffer(bytearray(self.pcm), dtype=torch.int16).float() / 32768


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelRunner]:
    """`make(setting=value)`: the demo voice in 16 slots; one that was made stays for the tests that follow."""
    cache, made = str(tmp_path_factory.mktemp("kernels")), {}

    def runner(**settings: object) -> ModelRunner:
        key = str(settings)
        if key not in made:
            made[key] = ModelRunner(EngineConfig(**{"max_concurrency": 16, "cache": cache, **settings}))  # type: ignore[arg-type]
        return made[key]

    return runner


def stream(runner: ModelRunner, slot: int, settings: Sampling, text: str = TEXT) -> Said:
    voice = runner.info.voices[slot % 2]
    return Said(Sequence(slot, [runner.prompt(voice, text)], settings.seed, slot=slot), settings)


def speak(runner: ModelRunner, streams: list[Said], frames: int) -> list[Said]:
    """All streams in one batch, each until it ends or has so many frames."""
    for said in streams:
        runner.start(said.sequence, said.settings)
    while live := [said for said in streams if not said.ended and said.sequence.frames < frames]:
        frame = runner.decode_frame([said.sequence for said in live])
        results = []
        for said, row, ended in zip(live, frame.codes.tolist(), frame.ended, strict=True):
            said.ended = ended
            if not ended:
                said.sequence.frames += 1
                said.codes.append(row)
            results.append(FrameResult(said.sequence, not ended, last=ended or said.sequence.frames == frames))
        for said, pcm in zip(live, runner.speak(results, frame.codes), strict=True):
            said.pcm += pcm
    return streams


def test_sixteen_seeded_streams_are_the_same_alone(make: Callable[..., ModelRunner]) -> None:
    runner = make(device="cuda", batch_invariant=True)
    assert (runner.info.kernel, runner.info.dtype) == ("triton", "bfloat16")
    texts = [f"Number {i}{' and more' * (i % 5)}." for i in range(16)]
    together = speak(runner, [stream(runner, i, sampling(seed=i), text) for i, text in enumerate(texts)], frames=16)
    assert len({str(said.codes) for said in together}) == 16
    for i, text in enumerate(texts):
        alone = stream(runner, i, sampling(seed=i), text)
        # In another slot, too: the voice is that of the first.
        alone.sequence.slot = (i + 5) % 16
        speak(runner, [alone], frames=16)
        assert alone.codes == together[i].codes
        assert alone.ended == together[i].ended
        # The codec's samples are equal to half precision's rounding.
        assert len(alone.pcm) == len(together[i].pcm)
        assert decibels(alone.samples, together[i].samples) >= 40


@pytest.mark.parametrize("kernel", ["triton", "torch"])
def test_float32_speech_is_the_cpus(make: Callable[..., ModelRunner], kernel: str) -> None:
    """The codes of the CPU's kernels, greedy and seeded, and its samples to a ten-thousandth of full scale."""
    fast = make(device="cuda", dtype="float32", codec_dtype="float32", gpu_kernel=kernel)
    plain = make(device="cpu", dtype="float32")
    assert (fast.info.kernel, fast.info.dtype) == (kernel, "float32")
    settings = [GREEDY, GREEDY, *(sampling(seed=seed) for seed in range(6))]
    heard, expected = (
        speak(runner, [stream(runner, i, one) for i, one in enumerate(settings)], frames=20) for runner in (fast, plain)
    )
    equal = [(a, b) for a, b in zip(heard, expected, strict=True) if (a.codes, a.ended) == (b.codes, b.ended)]
    # A draw may fall between two codes whose weights differ in the last bit; all of a stream differs from there on.
    assert len(equal) >= 7
    assert heard[0].codes == expected[0].codes
    for mine, theirs in equal:
        assert float(theirs.samples.std()) > 0.01
        torch.testing.assert_close(mine.samples, theirs.samples, atol=1.5e-4, rtol=0)


@pytest.mark.parametrize("kernel", ["triton", "torch"])
def test_the_host_can_read_a_frames_codes(make: Callable[..., ModelRunner], kernel: str) -> None:
    runner = make(device="cuda", dtype="float32", codec_dtype="float32", gpu_kernel=kernel)
    said = stream(runner, 0, sampling(seed=1))
    runner.start(said.sequence, said.settings)
    flight = runner.launch([said.sequence])
    flight.land()
    assert flight.heard.tolist() == flight.codes.tolist()


def test_default_speech_is_like_the_cpus(make: Callable[..., ModelRunner]) -> None:
    """bf16 draws other codes than float32 sooner or later: the sentence still is as long, as loud, and ends."""
    fast, plain = make(device="cuda"), make(device="cpu")
    heard, expected = (
        speak(runner, [stream(runner, i, sampling(seed=i)) for i in range(8)], frames=120) for runner in (fast, plain)
    )
    assert all(said.ended for said in heard + expected)
    length, usual = (sum(len(said.codes) for said in streams) for streams in (heard, expected))
    assert 0.8 < length / usual < 1.25
    loudness, usual = (torch.cat([said.samples for said in streams]).std() for streams in (heard, expected))
    assert 0.7 < loudness / usual < 1.4
    # Most first frames are equal: the prompts' logits differ by bf16's rounding alone.
    assert sum(a.codes[0][0] == b.codes[0][0] for a, b in zip(heard, expected, strict=True)) >= 5


# ---- the codec at its real shape


@pytest.fixture(scope="module")
def snac() -> SNAC:
    return dummy_codec("snac-24khz")


@pytest.fixture(scope="module")
def utterances() -> Tensor:
    """Codes of three of them, of 60 frames each."""
    return torch.randint(4096, (3, FRAMES, 7), generator=torch.Generator().manual_seed(4), dtype=torch.int32)


@pytest.fixture(scope="module")
def whole(snac: SNAC, utterances: Tensor) -> list[Tensor]:
    """snac's own decode of each, on the CPU in float32, seeded by its number."""
    return [whole_decode(snac, codes, seed) for seed, codes in enumerate(utterances)]


def streamed(decoder: Decoder, utterances: Tensor, slots: list[int], draw: random.Random) -> list[Tensor]:
    """Each utterance's audio, pushed in pieces of random lengths in batches of random streams, then flushed."""
    at, pieces = [0] * len(slots), [[] for _ in slots]

    def push(rows: list[int], codes: Tensor, count: int, total: int | None) -> None:
        starts = [at[row] for row in rows]
        totals = [NO_END if total is None else total] * len(rows)
        samples = decoder.decode([slots[row] for row in rows], codes, starts, totals, rows)
        for row, heard in zip(rows, samples.cpu(), strict=True):
            kept = window(at[row], count, decoder.lag, total)
            pieces[row].append(heard[kept.skip : kept.skip + kept.keep])
            at[row] += count

    while unfinished := [row for row in range(len(slots)) if at[row] < FRAMES]:
        rows = draw.sample(unfinished, draw.randint(1, len(unfinished)))
        count = min(draw.randint(1, 4), *(FRAMES - at[row] for row in rows))
        push(rows, torch.stack([utterances[row, at[row] : at[row] + count] for row in rows]).to(DEVICE), count, None)
    count, rows = flush_frames(decoder.lag), list(range(len(slots)))
    push(rows, torch.zeros(len(rows), count, 7, dtype=torch.int32, device=DEVICE), count, FRAMES)
    return [torch.cat(parts) for parts in pieces]


@pytest.mark.parametrize(("asked", "least"), [("float32", 100), ("float16", 40), ("bfloat16", 40), ("auto", 40)])
def test_streamed_is_the_whole_decode(utterances: Tensor, whole: list[Tensor], asked: str, least: float) -> None:
    # The decoders fold the weight norm away in place: a codec of their own.
    mine = dummy_codec("snac-24khz")
    torch.backends.cudnn.allow_tf32 = False
    decoder = gpu_codec(snac_layers(mine, "snac"), codebook_tables(mine), 5, DEVICE, asked)
    assert decoder.name == "triton"
    heard = streamed(decoder, utterances, [3, 0, 4], random.Random(asked))
    for samples, expected in zip(heard, whole, strict=True):
        assert samples.shape == expected.shape == (FRAMES * SAMPLES_PER_FRAME,)
        assert decibels(samples, expected) >= least
