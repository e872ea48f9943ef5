"""CUDA gives what the CPU gives: bits where they are integers, codes where they are drawn, samples to rounding."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch

from engine import ConfigError, Engine, EngineConfig, SamplingParams, SpeechStream
from engine.model import sampler
from engine.model.checkpoint import open_checkpoint
from engine.model.llama import TorchLlama
from engine.model.rng import keyed_bits, keyed_normal, keyed_uniform
from engine.model.runner import ModelRunner
from engine.model.slots import SlotState
from engine.model.snac import TorchSnac
from engine.model.weights import load_weights, random_weights
from engine.scheduler import FrameResult
from engine.sequence import Sequence
from tests.engine.codec import Codec, stream
from tests.engine.language import CONTEXT, GREEDY, Loaded, Voice, converse, load, sampling
from tests.tiny import LLAMA3_ROPE, TinyLlama

DEVICE = torch.device("cuda")
FRAME_BYTES = 4096
SEEDS = [0, -1, 2**63 - 1, -(2**63), 12345]

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module")
def loaded(llama_folder: Callable[[TinyLlama], Path]) -> Loaded:
    return load(llama_folder(TinyLlama(rope=LLAMA3_ROPE, seed=2)))


@pytest.fixture(scope="module")
def on_device(loaded: Loaded) -> Callable[..., TorchLlama]:
    """`on_device(slots)`: the model in float32 on the GPU."""
    checkpoint = loaded.checkpoint
    weights = load_weights(loaded.folder, checkpoint.shape, checkpoint.layout, DEVICE, torch.float32)
    return lambda slots=1: TorchLlama(checkpoint.shape, weights, checkpoint.layout, slots, CONTEXT)


@pytest.fixture
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 convolutions in float32; cuDNN's default is TF32, which has 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


# ---- the generator


def test_keyed_bits_are_bit_equal() -> None:
    keys, counters = torch.tensor(SEEDS)[:, None], torch.arange(10_000)
    assert torch.equal(keyed_bits(keys.to(DEVICE), counters.to(DEVICE)).cpu(), keyed_bits(keys, counters))


def test_keyed_uniforms_are_bit_equal() -> None:
    keys, counters = torch.tensor(SEEDS)[:, None], torch.arange(10_000)
    assert torch.equal(keyed_uniform(keys.to(DEVICE), counters.to(DEVICE)).cpu(), keyed_uniform(keys, counters))


def test_keyed_normals_are_equal_to_rounding() -> None:
    keys, counters = torch.tensor(SEEDS)[:, None], torch.arange(10_000)
    values = keyed_normal(keys.to(DEVICE), counters.to(DEVICE)).cpu()
    torch.testing.assert_close(values, keyed_normal(keys, counters), atol=1e-5, rtol=1e-5)


# ---- the language model


def test_logits_equal_the_cpu(loaded: Loaded, on_device: Callable[..., TorchLlama]) -> None:
    ids = loaded.ids("A prompt of some length, for the GPU and for the CPU.")
    plain, fast = loaded.plain(slots=2), on_device(slots=2)
    expected = plain.logits(plain.prefill(1, ids))
    torch.testing.assert_close(fast.logits(fast.prefill(1, ids)).cpu(), expected, atol=1e-4, rtol=0)
    for at, token in enumerate([200, 5000, 20_000], start=len(ids)):
        arguments = [torch.tensor([number]) for number in (token, 1, at)]
        expected = plain.logits(plain.step(*arguments, length=at + 1))
        logits = fast.logits(fast.step(*(argument.to(DEVICE) for argument in arguments), length=at + 1))
        torch.testing.assert_close(logits.cpu(), expected, atol=1e-4, rtol=0)


def test_greedy_codes_equal_the_cpu(loaded: Loaded, on_device: Callable[..., TorchLlama]) -> None:
    ids = loaded.ids("Greedy.")
    assert converse(on_device(), [Voice(ids, GREEDY, frames=40)]) == converse(
        loaded.plain(), [Voice(ids, GREEDY, frames=40)]
    )


def test_most_sampled_streams_equal_the_cpu(loaded: Loaded, on_device: Callable[..., TorchLlama]) -> None:
    ids, slots = loaded.ids("Sampled."), 24
    voices = [[Voice(ids, sampling(seed=seed), slot=seed, frames=20) for seed in range(slots)] for _ in range(2)]
    fast, plain = converse(on_device(slots), voices[0]), converse(loaded.plain(slots), voices[1])
    # A draw may fall between two codes whose weights differ in the last bit; all of a stream differs from there on.
    assert sum(a == b for a, b in zip(fast, plain, strict=True)) >= slots - 2


def test_the_same_logits_are_drawn_the_same(loaded: Loaded) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(32, 4100, generator=generator) * 3
    states = [SlotState(32, device) for device in (torch.device("cpu"), DEVICE)]
    for state in states:
        for slot in range(32):
            settings = sampling(seed=slot, top_k=(0, 1, 5, 300)[slot % 4], top_p=(1.0, 0.9, 0.2)[slot % 3])
            state.start(slot, 0, 0, settings)
        state.frame[:] = 3
    drawn = [
        sampler.sample(logits.to(state.seed.device), 0, state, torch.arange(32, device=state.seed.device), 1).cpu()
        for state in states
    ]
    assert torch.equal(*drawn)


def test_rows_of_a_batch_equal_the_rows_alone(loaded: Loaded, on_device: Callable[..., TorchLlama]) -> None:
    prompts = [loaded.ids(f"Number {i}{' more' * i}.") for i in range(16)]
    batch = converse(on_device(16), [Voice(ids, GREEDY, slot=slot) for slot, ids in enumerate(prompts)])
    for slot, ids in enumerate(prompts):
        assert converse(on_device(), [Voice(ids, GREEDY)]) == [batch[slot]]


def test_streams_that_join_and_leave(loaded: Loaded, on_device: Callable[..., TorchLlama]) -> None:
    plan = [(3, 0, 9), (0, 0, 2), (1, 3, 5), (0, 4, 4)]
    batch = [
        Voice(loaded.ids(f"Text {i}."), sampling(seed=i), slot=slot, joins=joins, frames=frames)
        for i, (slot, joins, frames) in enumerate(plan)
    ]
    converse(on_device(4), batch)
    for voice in batch:
        assert converse(on_device(), [Voice(voice.ids, voice.sampling, frames=voice.frames)]) == [voice.codes]


def test_bf16_draws_legal_codes(llama_folder: Callable[[TinyLlama], Path]) -> None:
    folder = llama_folder(TinyLlama(dtype=torch.bfloat16, seed=3))
    checkpoint = open_checkpoint(str(folder))
    weights = load_weights(folder, checkpoint.shape, checkpoint.layout, DEVICE, torch.bfloat16)
    model = TorchLlama(checkpoint.shape, weights, checkpoint.layout, 1, CONTEXT)
    ids = checkpoint.layout.prompt(checkpoint.encode("ana: Half."))
    (codes,) = converse(model, [Voice(ids, sampling(seed=1, temperature=1.5), frames=20)])
    assert all(0 <= code < 4096 for frame in codes for code in frame)
    assert len({tuple(frame) for frame in codes}) == 20


def test_random_weights_are_made_on_the_device(loaded: Loaded) -> None:
    shape, layout = loaded.checkpoint.shape, loaded.checkpoint.layout
    first, again = (random_weights(shape, layout, DEVICE, torch.bfloat16, seed=1) for _ in range(2))
    assert first.embed.device.type == DEVICE.type
    assert torch.equal(first.head, again.head)


# ---- the codec


@pytest.mark.parametrize("noise", [True, False], ids=["noise", "quiet"])
def test_the_codec_equals_the_cpu(kernel_cache: Path, exact_convolutions: None, noise: bool) -> None:
    codec = Codec(64, kernel_cache)
    codes = torch.randint(4096, (11, 7), generator=torch.Generator().manual_seed(1))
    fast = TorchSnac(codec.layers, codec.tables, 3, DEVICE, torch.float32, noise=noise)
    heard = stream(fast, codes.to(DEVICE), [1, 4, 1, 5], seed=9, slot=2).cpu()
    plain = stream(codec.plain(slots=3, noise=noise), codes, [11], seed=9, slot=2)
    assert float(plain.std()) > 0.1
    torch.testing.assert_close(heard, plain, atol=1e-4, rtol=0)


# ---- the runner and the engine


def spoken(runner: ModelRunner, text: str, frames: int) -> tuple[list[list[int]], bytes]:
    """Greedy codes and PCM of a sequence that is cut after some frames."""
    sequence = Sequence(1, [runner.prompt("ana", text)], seed=5, slot=1)
    runner.start(sequence, GREEDY)
    codes, pcm = [], b""
    for _ in range(frames):
        frame = runner.decode_frame([sequence])
        codes += frame.codes.tolist()
        sequence.frames += 1
        pcm += runner.speak([FrameResult(sequence, spoken=True, last=sequence.frames == frames)], frame.codes)[0]
    return codes, pcm


def test_the_runner_speaks_as_on_the_cpu(engine_config: Callable[..., EngineConfig]) -> None:
    fast = ModelRunner(engine_config(device=str(DEVICE), dtype="float32", codec_dtype="float32"))
    plain = ModelRunner(engine_config(cpu_kernel="torch"))
    assert (fast.info.kernel, fast.info.dtype) == ("triton", "float32")
    codes, pcm = spoken(fast, "Hello there.", frames=12)
    expected_codes, expected_pcm = spoken(plain, "Hello there.", frames=12)
    assert codes == expected_codes
    heard, expected = (torch.frombuffer(bytearray(b), dtype=torch.int16).int() for b in (pcm, expected_pcm))
    assert len(heard) == 12 * 2048
    # 1e-4 of full scale: float32 arithmetic, not TF32.
    assert int((heard - expected).abs().max()) <= 4


def test_a_device_that_does_not_exist_is_named(engine_config: Callable[..., EngineConfig]) -> None:
    with pytest.raises(ConfigError, match="cuda:99"):
        ModelRunner(engine_config(device="cuda:99"))


@pytest.fixture
async def engine(engine_config: Callable[..., EngineConfig]) -> AsyncIterator[Engine]:
    engine = Engine(engine_config(device=str(DEVICE), max_concurrency=4))
    await engine.start()
    yield engine
    await engine.stop()


@pytest.mark.anyio
async def test_the_engine_end_to_end(engine: Engine) -> None:
    assert engine.info.dtype == "bfloat16"
    params = SamplingParams(seed=3, max_tokens=70)

    async def heard(text: str) -> bytes:
        stream = engine.submit(text, "ana", params)
        pcm = b"".join([piece async for piece in stream])
        assert len(pcm) == stream.output_tokens // 7 * FRAME_BYTES > 0
        return pcm

    first = await heard("The same words.")
    assert await heard("The same words.") == first
    assert await heard("Other words.") != first
    crowd = [engine.submit(f"Number {i}.", "ben", params) for i in range(6)]
    for leaving in crowd[1::2]:
        leaving.cancel()
    for staying in crowd[::2]:
        assert b"".join([piece async for piece in staying])
    assert await engine.drain(60)


@pytest.mark.anyio
async def test_streams_that_start_together_say_what_they_say_alone(launch: Callable[..., Engine]) -> None:
    """Through queue, joint prompts and frames in flight; the codec is equal to float32's rounding."""
    engine = launch(device=str(DEVICE), max_concurrency=3, max_queue=3, batch_invariant=True, codec_dtype="float32")
    await engine.start()

    def begun(i: int) -> SpeechStream:
        return engine.submit(f"Number {i}{' and more' * i}.", "ana", SamplingParams(seed=i, max_tokens=70))

    async def heard(stream: SpeechStream) -> torch.Tensor:
        pcm = bytearray(b"".join([piece async for piece in stream]))
        return torch.frombuffer(pcm, dtype=torch.int16).int()

    together = [await heard(stream) for stream in [begun(i) for i in range(6)]]
    for i, crowd in enumerate(together):
        alone = await heard(begun(i))
        assert len(alone) == len(crowd) == 10 * 2048
        assert int((alone - crowd).abs().max()) <= 4
