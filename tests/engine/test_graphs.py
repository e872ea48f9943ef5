"""CUDA graphs of Triton kernels give what plain torch gives: codes where they are drawn, numbers to rounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import ConfigError, EngineConfig
from engine.model.checkpoint import open_checkpoint
from engine.model.llama import TorchLlama
from engine.model.runner import ModelRunner
from engine.model.weights import LlamaWeights, load_weights
from tests.engine.kernels import DEVICE, prepare
from tests.engine.language import CONTEXT, GREEDY, NEVER, Loaded, Voice, converse, load, sampling
from tests.tiny import LLAMA3_ROPE, TinyLlama

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device")]
prepare()

from engine.model.graphs import GraphLlama  # noqa: E402

Models = Callable[..., GraphLlama]


@pytest.fixture(scope="module", autouse=True)
def exact_products() -> None:
    """Float32 products in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture(scope="module")
def loaded(llama_folder: Callable[[TinyLlama], Path]) -> Loaded:
    return load(llama_folder(TinyLlama(rope=LLAMA3_ROPE, hidden=96, heads=6, kv_heads=2, seed=2)))


def weights_of(loaded: Loaded, dtype: torch.dtype, fp8: bool = False) -> LlamaWeights:
    return load_weights(loaded.folder, loaded.checkpoint.shape, loaded.checkpoint.layout, DEVICE, dtype, fp8=fp8)


@pytest.fixture(scope="module")
def build(loaded: Loaded) -> Models:
    """`build(slots, dtype, kind, fp8, **options)`: a model on the GPU.

    Plain torch has norms as they are stored, but in bf16 folded as the graphs: what rounding a weight once more does is
    held against transformers' own error (test_gpu_model.py).
    """
    kinds = itertools.product((torch.float32, torch.bfloat16), (False, True))
    weights = {(dtype, fp8): weights_of(loaded, dtype, fp8) for dtype, fp8 in kinds}
    stored = {fp8: weights_of(loaded, torch.float32, fp8) for fp8 in (False, True)}

    def model(
        slots: int = 1,
        dtype: torch.dtype = torch.float32,
        kind: type = GraphLlama,
        fp8: bool = False,
        **options: Any,
    ) -> GraphLlama:
        plain = kind is TorchLlama and dtype == torch.float32
        taken = stored[fp8] if plain else weights[dtype, fp8]
        return kind(loaded.checkpoint.shape, taken, loaded.checkpoint.layout, slots, CONTEXT, **options)

    return model


def first_logits(model: GraphLlama, streams: int, count: int) -> Tensor:
    """Slot 0's logits of the first streams' next frame, in a batch of `count` rows."""
    model.step.rows.fill_(-1)
    model.step.rows[:streams] = torch.arange(streams, dtype=torch.int32, device=DEVICE)
    with torch.inference_mode():
        model.step.enter(count)
        return model.step.run(count, 0)[:streams].clone()


def started(model: GraphLlama, loaded: Loaded, streams: int) -> GraphLlama:
    for slot in range(streams):
        ids = loaded.ids(f"Number {slot}{' and more' * slot}.")
        model.prefill(slot, ids[:-1])
        model.state.start(slot, ids[-1], len(ids) - 1, sampling(seed=slot))
    return model


def step_error(model: GraphLlama, plain: TorchLlama, streams: int, count: int) -> float:
    """How far the next step's logits are from plain torch's, as a share of them."""
    rows = torch.arange(streams, device=DEVICE)
    hidden = plain.step(plain.state.token[rows], rows, plain.state.position[rows], CONTEXT)
    expected = F.linear(hidden, plain.weights.head[0]).float()
    return float((first_logits(model, streams, count) - expected).norm() / expected.norm())


def apart(mine: Tensor, theirs: Tensor) -> float:
    """How far caches differ, as a share of `theirs`, where it holds a prompt: padding in `mine` does not count."""
    written = theirs.float() != 0
    return float(((mine.float() - theirs.float()) * written).norm() / theirs.float().norm())


@pytest.mark.parametrize("fp8", [False, True], ids=["", "fp8"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=str)
@pytest.mark.parametrize("count", [1, 4, 16, 40, 64, 70])
def test_logits_equal_plain_torch(
    loaded: Loaded, build: Models, dtype: torch.dtype, tolerance: float, count: int, fp8: bool
) -> None:
    streams = min(count, 5)
    if fp8 and dtype == torch.bfloat16 and count > 16:
        tolerance = 0.15  # rows of 8 bits, too, where torch has 16
    model, plain = (started(build(80, dtype, kind, fp8), loaded, streams) for kind in (GraphLlama, TorchLlama))
    if fp8:
        # With weights of 8 bits a prompt's rows have 8 bits, too, in bf16; a step begins from the same keys here.
        for mine, theirs in ((model.keys, plain.keys), (model.values, plain.values)):
            assert apart(mine, theirs) < 0.12
            mine.copy_(theirs)
    assert step_error(model, plain, streams, count) < tolerance
    assert not model.step.scratch.arrived.any()


@pytest.mark.parametrize("fp8", [False, True], ids=["", "fp8"])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 200, 300])
def test_a_prompt_is_the_same_in_every_bucket(loaded: Loaded, build: Models, length: int, fp8: bool) -> None:
    ids = (loaded.ids("A prompt of some length.") * 20)[:length]
    model, plain = build(3, fp8=fp8), build(3, kind=TorchLlama, fp8=fp8)
    model.prefill(1, ids)
    plain.prefill(1, ids)
    for mine, theirs in ((model.keys, plain.keys), (model.values, plain.values)):
        torch.testing.assert_close(mine[:, 1, :, :length], theirs[:, 1, :, :length], atol=1e-4, rtol=0)
        assert not mine[:, 0].any()
        assert not mine[:, 2].any()


@pytest.mark.parametrize("streams", [2, 3, 11])
def test_prompts_read_together_go_to_their_slots(loaded: Loaded, build: Models, streams: int) -> None:
    """Of all lengths, more than fit one pass, and not in the order of their slots."""
    prompts = [
        ((slot * 7 + 3) % 13, (loaded.ids("Some words. ") * 20)[: 5 + 61 * slot % 250]) for slot in range(streams)
    ]
    together, plain = build(13), build(13, kind=TorchLlama)
    together.prefill_all(prompts)
    for slot, ids in prompts:
        plain.prefill(slot, ids)
        for mine, theirs in ((together.keys, plain.keys), (together.values, plain.values)):
            torch.testing.assert_close(mine[:, slot, :, : len(ids)], theirs[:, slot, :, : len(ids)], atol=1e-4, rtol=0)
    idle = [slot for slot in range(13) if slot not in dict(prompts)]
    assert not together.keys[:, idle].any()


def test_a_prompt_has_the_same_keys_alone_and_among_others(loaded: Loaded, build: Models) -> None:
    together, alone = (build(8, torch.bfloat16, invariant=True) for _ in range(2))
    prompts = [(slot, loaded.ids(f"Number {slot}{' and more' * slot}.")) for slot in range(8)]
    together.prefill_all(prompts)
    for slot, ids in prompts:
        alone.prefill(slot, ids)
    assert torch.equal(together.keys, alone.keys)
    assert torch.equal(together.values, alone.values)


def test_the_device_says_how_long_a_frame_took(loaded: Loaded, build: Models) -> None:
    """What was given to it before is not part of it."""
    model = started(build(1), loaded, 1)
    model.launch([0], NEVER).land()
    torch.cuda._sleep(200_000_000)  # a tenth of a second
    flight = model.launch([0], NEVER)
    flight.land()
    assert flight.seconds is not None
    assert 0 < flight.seconds < 0.05


@pytest.mark.parametrize("fp8", [False, True], ids=["", "fp8"])
def test_greedy_codes_equal_plain_torch(loaded: Loaded, build: Models, fp8: bool) -> None:
    ids = loaded.ids("Greedy.")
    assert converse(build(fp8=fp8), [Voice(ids, GREEDY, frames=40)]) == converse(
        build(kind=TorchLlama, fp8=fp8), [Voice(ids, GREEDY, frames=40)]
    )


@pytest.mark.parametrize("slots", [1, 16, 64, 80])
def test_most_sampled_streams_equal_plain_torch(loaded: Loaded, build: Models, slots: int) -> None:
    ids = loaded.ids("Sampled.")
    voices = [[Voice(ids, sampling(seed=seed), slot=seed, frames=12) for seed in range(slots)] for _ in range(2)]
    mine, plain = converse(build(slots), voices[0]), converse(build(slots, kind=TorchLlama), voices[1])
    # A draw may fall between two codes whose weights differ in the last bit; all of a stream differs from there on.
    assert sum(a == b for a, b in zip(mine, plain, strict=True)) >= slots - slots // 12


@pytest.mark.parametrize("fp8", [False, True], ids=["", "fp8"])
@pytest.mark.parametrize("slots", [16, 64])
def test_a_stream_is_the_same_alone_and_in_a_batch(loaded: Loaded, build: Models, slots: int, fp8: bool) -> None:
    model = build(slots, torch.bfloat16, fp8=fp8, invariant=True)
    texts = [loaded.ids(f"Number {i}{' more' * (i % 9)}.") for i in range(slots)]
    batch = converse(model, [Voice(ids, sampling(seed=i), slot=i) for i, ids in enumerate(texts)])
    for i in (0, 5, slots - 1):
        assert converse(model, [Voice(texts[i], sampling(seed=i), slot=2)]) == [batch[i]]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.bfloat16, 6e-2)], ids=str)
@pytest.mark.parametrize("count", [1, 16, 64, 70])
def test_keys_and_values_of_8_bits(
    loaded: Loaded, build: Models, dtype: torch.dtype, tolerance: float, count: int
) -> None:
    kept = {"kv_dtype": torch.float8_e4m3fn}
    model, plain = (build(80, dtype, kind, **kept) for kind in (GraphLlama, TorchLlama))
    assert model.keys.itemsize == plain.keys.itemsize == 1
    streams = min(count, 5)
    started(plain, loaded, streams)
    started(model, loaded, streams)
    for mine, theirs in ((model.keys, plain.keys), (model.values, plain.values)):
        # A number between two of 8 bits may fall to either side.
        assert apart(mine, theirs) < 0.04
        mine.copy_(theirs)
    assert step_error(model, plain, streams, count) < tolerance


def test_a_prompt_that_pads_another_leaves_keys_of_8_bits_alone(loaded: Loaded, build: Models) -> None:
    model = build(3, torch.bfloat16, kv_dtype=torch.float8_e4m3fn)
    model.prefill(1, loaded.ids("Alone."))
    assert not model.keys.float()[:, [0, 2]].any()


def test_more_streams_than_fixed_cuts_allow_are_refused(build: Models) -> None:
    with pytest.raises(ConfigError, match="batch_invariant"):
        build(65, invariant=True)


def test_streams_that_join_and_leave(loaded: Loaded, build: Models) -> None:
    plan = [(3, 0, 9), (0, 0, 2), (1, 3, 5), (0, 4, 4)]
    batch = [
        Voice(loaded.ids(f"Text {i}."), sampling(seed=i), slot=slot, joins=joins, frames=frames)
        for i, (slot, joins, frames) in enumerate(plan)
    ]
    model = build(4, invariant=True)
    converse(model, batch)
    for voice in batch:
        assert converse(build(4, invariant=True), [Voice(voice.ids, voice.sampling, frames=voice.frames)]) == [
            voice.codes
        ]


def test_streams_end_as_in_plain_torch(llama_folder: Callable[[TinyLlama], Path]) -> None:
    loaded = load(llama_folder(TinyLlama(tied=False, end_gain=4.0, seed=1)))
    checkpoint = loaded.checkpoint
    ended = []
    for kind in (GraphLlama, TorchLlama):
        voices = [Voice(loaded.ids("End."), sampling(seed=i), slot=i, frames=30, min_frames=1) for i in range(8)]
        weights = weights_of(loaded, torch.float32)
        converse(kind(checkpoint.shape, weights, checkpoint.layout, 8, CONTEXT), voices)
        ended.append([(voice.ended, len(voice.codes)) for voice in voices])
    assert sum(a == b for a, b in zip(*ended, strict=True)) >= 7
    assert any(end for end, _ in ended[0])


def test_a_frame_may_be_launched_before_the_last_has_landed(loaded: Loaded, build: Models) -> None:
    one, two = (started(build(4), loaded, 3) for _ in range(2))
    waited = [one.decode_frame([0, 1, 2], CONTEXT, NEVER)[0].tolist() for _ in range(4)]
    flights = [two.launch([0, 1, 2], NEVER) for _ in range(4)]
    assert [flight.land() for flight in flights] == [[False] * 3] * 4
    assert [flight.codes.tolist() for flight in flights] == waited


def test_a_stream_past_its_slot_touches_no_other(loaded: Loaded, build: Models) -> None:
    model = started(build(3), loaded, 1)
    model.state.position[0] = CONTEXT - 3
    model.launch([0], NEVER).land()
    assert int(model.state.position[0]) == CONTEXT - 1
    assert not model.keys[:, 1].any()
    with pytest.raises(IndexError):
        model.decode_frame([0], CONTEXT + 1, NEVER)


def test_a_checkpoint_in_bf16_draws_legal_codes(llama_folder: Callable[[TinyLlama], Path]) -> None:
    folder = llama_folder(TinyLlama(dtype=torch.bfloat16, seed=3))
    checkpoint = open_checkpoint(str(folder))
    weights = load_weights(folder, checkpoint.shape, checkpoint.layout, DEVICE, torch.bfloat16)
    model = GraphLlama(checkpoint.shape, weights, checkpoint.layout, 1, CONTEXT)
    ids = checkpoint.layout.prompt(checkpoint.encode("ana: Half."))
    (codes,) = converse(model, [Voice(ids, sampling(seed=1, temperature=1.5), frames=20)])
    assert all(0 <= code < 4096 for frame in codes for code in frame)
    assert len({tuple(frame) for frame in codes}) == 20


def test_the_runner_takes_the_kernels(engine_config: Callable[..., EngineConfig]) -> None:
    runner = ModelRunner(engine_config(device=str(DEVICE)))
    assert (runner.info.kernel, runner.ahead) == ("triton", 1)
    runner = ModelRunner(engine_config(device=str(DEVICE), quantization="fp8"))
    assert runner.model.weights.quantised
    runner = ModelRunner(engine_config(device=str(DEVICE), quantization="fp8", kv_dtype="fp8"))
    assert runner.model.keys.dtype == torch.float8_e4m3fn
    runner = ModelRunner(engine_config(device=str(DEVICE), gpu_kernel="torch", quantization="fp8"))
    assert not runner.model.weights.quantised
    runner = ModelRunner(engine_config(device=str(DEVICE), gpu_kernel="torch"))
    assert (runner.info.kernel, runner.ahead) == ("torch", 0)
