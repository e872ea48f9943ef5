"""Graphs of Triton kernels on the GPU against transformers' LlamaForCausalLM on the same GPU, with nothing between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from engine.model.weights import END_ROW, load_weights
from engine.prompt import AUDIO_TOKENS, CODEBOOK_SIZE, FRAME_TOKENS
from tests.engine.kernels import DEVICE, prepare
from tests.engine.language import CONTEXT, GREEDY, NEVER, Loaded, Voice, converse, load, reference_frames, sampling
from tests.tiny import FIRST_AUDIO, LLAMA3_ROPE, TinyLlama

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device")]
prepare()

from engine.model.graphs import GraphLlama  # noqa: E402
from engine.model.kernels import wgmma  # noqa: E402
from engine.model.kernels.chain import launches_early  # noqa: E402
from engine.model.kernels.nvrtc import is_hopper  # noqa: E402
from engine.model.plans import Hopper, hopper  # noqa: E402

SHAPES = {
    "small": TinyLlama(rope=LLAMA3_ROPE, hidden=96, heads=6, kv_heads=2, seed=2),
    # Orpheus' proportions: heads of 128, three of them to a key, an untied head as some finetunes have it.
    "orpheus": TinyLlama(
        rope=LLAMA3_ROPE, hidden=384, layers=4, heads=6, kv_heads=2, head_dim=128, intermediate=1024, tied=False, seed=7
    ),
}
TEXTS = ["Hi.", "A prompt of some length.", "And one that is longer, with more than one clause in it; it goes on. " * 3]


@pytest.fixture(scope="module", autouse=True)
def exact_products() -> None:
    """Float32 products in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture(scope="module", params=SHAPES)
def loaded(request: pytest.FixtureRequest, llama_folder: Callable[[TinyLlama], Path]) -> Loaded:
    """A checkpoint, transformers' model of it on the GPU in float32."""
    loaded = load(llama_folder(SHAPES[request.param]))
    return replace(loaded, reference=loaded.reference.to(DEVICE))


def graphs(loaded: Loaded, slots: int, dtype: torch.dtype) -> GraphLlama:
    shape, layout = loaded.checkpoint.shape, loaded.checkpoint.layout
    return GraphLlama(shape, load_weights(loaded.folder, shape, layout, DEVICE, dtype), layout, slots, CONTEXT)


@torch.inference_mode()
def audio_logits(model: GraphLlama, spoken: list[list[int]], count: int) -> Tensor:
    """What the next token of each conversation may be at each slot of a frame, float32 [len(spoken), 7 * 4096].

    In batches of `count` rows, of which the last may be padding.
    """
    for slot, ids in enumerate(spoken):
        model.prefill(slot, ids[:-1])
        model.state.start(slot, ids[-1], len(ids) - 1, sampling())
    rows = model.step.rows[:count]
    batches = []
    for first in range(0, len(spoken), count):
        live = torch.arange(first, min(first + count, len(spoken)), dtype=torch.int32, device=DEVICE)
        rows.fill_(-1)
        rows[: len(live)] = live
        slots = []
        for k in range(FRAME_TOKENS):
            model.step.enter(count)
            slots.append(model.step.run(count, k)[: len(live), :CODEBOOK_SIZE].clone())
        batches.append(torch.cat(slots, dim=1))
    return torch.cat(batches)


@torch.inference_mode()
def reference_logits(reference: LlamaForCausalLM, ids: list[int]) -> Tensor:
    last = reference(torch.tensor([ids], device=DEVICE)).logits[0, -1]
    return last[FIRST_AUDIO : FIRST_AUDIO + AUDIO_TOKENS].float()


def conversations(loaded: Loaded) -> list[list[int]]:
    """Prompts with some seconds of speech after them: 20 to 600 tokens."""
    generator = torch.Generator().manual_seed(3)
    frames = [torch.randint(CODEBOOK_SIZE, (n, FRAME_TOKENS), generator=generator) for n in (0, 2, 9, 24, 50)]
    offsets = FIRST_AUDIO + CODEBOOK_SIZE * torch.arange(FRAME_TOKENS)
    texts = [TEXTS[i % 3] for i in range(len(frames))]
    return [loaded.ids(text) + (codes + offsets).flatten().tolist() for text, codes in zip(texts, frames, strict=True)]


def error(mine: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((mine - exact).norm() / exact.norm())


def test_greedy_codes_equal_transformers(loaded: Loaded) -> None:
    prompts = [loaded.ids(text) for text in TEXTS]
    expected = [reference_frames(loaded, ids, frames=30) for ids in prompts]
    assert all(len({tuple(frame) for frame in frames}) > 3 for frames in expected)
    model = graphs(loaded, len(prompts), torch.float32)
    for slot, ids in enumerate(prompts):
        assert converse(model, [Voice(ids, GREEDY, slot=slot, frames=30)]) == [expected[slot]]
    assert converse(model, [Voice(ids, GREEDY, slot=i, frames=30) for i, ids in enumerate(prompts)]) == expected


# One plan each: one row, up to 16, up to 64, and the library's products.
@pytest.mark.parametrize("count", [1, 8, 64, 96])
def test_logits_equal_transformers_in_float32(loaded: Loaded, count: int) -> None:
    spoken = conversations(loaded)
    mine = audio_logits(graphs(loaded, max(count, 5), torch.float32), spoken, count)
    for row, ids in zip(mine, spoken, strict=True):
        assert error(row, reference_logits(loaded.reference, ids)) < 5e-5


# On Hopper more plans.
@pytest.mark.parametrize("count", [1, 8, 16, 32, 64, 96])
def test_bf16_is_as_near_to_float32_as_transformers_own(loaded: Loaded, count: int) -> None:
    """The tolerance: 1.5 times the error that transformers' bf16 has against its float32, over five conversations."""
    theirs = LlamaForCausalLM.from_pretrained(loaded.folder, dtype=torch.bfloat16).eval().to(DEVICE)
    # What both start from: the weights rounded once.
    exact = LlamaForCausalLM.from_pretrained(loaded.folder, dtype=torch.bfloat16).eval().to(DEVICE).float()
    spoken = conversations(loaded)
    expected = torch.stack([reference_logits(exact, ids) for ids in spoken])
    usual = error(torch.stack([reference_logits(theirs, ids) for ids in spoken]), expected)
    # These random weights are many times steeper than trained ones.
    assert 1e-3 < usual < 0.15
    assert error(audio_logits(graphs(loaded, max(count, 5), torch.bfloat16), spoken, count), expected) < 1.5 * usual


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_graph_gives_the_bits_of_its_kernels_run_one_by_one(loaded: Loaded, dtype: torch.dtype) -> None:
    """Graphed equals eager: the same codes and ends, the same keys and values, sampled, in a batch that has padding."""
    graphed, eager = (graphs(loaded, 8, dtype) for _ in range(2))
    for model in (graphed, eager):
        for slot, text in enumerate(TEXTS):
            ids = loaded.ids(text)
            model.prefill(slot, ids[:-1])
            model.state.start(slot, ids[-1], len(ids) - 1, sampling(seed=slot))
    for _ in range(6):
        expected, _ = graphed.decode_frame([0, 1, 2], CONTEXT, NEVER)
        eager.limits[0] = NEVER
        eager.step.rows[:4] = torch.tensor([0, 1, 2, -1], dtype=torch.int32, device=DEVICE)
        eager.frame(4)
        assert torch.equal(eager.codes[:3], expected)
        assert not eager.ended[:3].any()
    assert torch.equal(eager.keys, graphed.keys)
    assert torch.equal(eager.values, graphed.values)


@pytest.mark.parametrize("slots", [1, 3, 16, 20, 70])
def test_kernels_launched_early_give_the_same_bits(loaded: Loaded, slots: int) -> None:
    """As those that wait for their predecessors' end: nothing is read before it is there, step after step."""
    early, late = (graphs(loaded, slots, torch.bfloat16) for _ in range(2))
    assert early.step.early == launches_early(DEVICE)
    late.step.early = False
    for model in (early, late):
        for slot in range(slots):
            ids = loaded.ids(f"Number {slot}{' and more' * (slot % 7)}.")
            model.prefill(slot, ids[:-1])
            model.state.start(slot, ids[-1], len(ids) - 1, sampling(seed=slot))
    for _ in range(6):
        mine, theirs = (model.decode_frame(list(range(slots)), CONTEXT, NEVER)[0] for model in (early, late))
        assert torch.equal(mine, theirs)
    assert torch.equal(early.keys, late.keys)
    assert torch.equal(early.values, late.values)


@pytest.mark.skipif(not is_hopper(DEVICE), reason="no Hopper GPU")
def test_kernels_for_hopper_run_where_they_fit(loaded: Loaded) -> None:
    model, exact = (graphs(loaded, 70, dtype) for dtype in (torch.bfloat16, torch.float32))
    fits = loaded.checkpoint.shape.head_dim == 128
    assert hopper(model.shape, model.weights, model.keys) == Hopper(products=fits, attention=fits)
    assert hopper(exact.shape, exact.weights, exact.keys) == Hopper()
    assert [model.step.plan(count).attention.grouped for count in (1, 3, 16, 17, 70)] == [fits] * 5
    cuts = [model.step.plan(count).tiles.down for count in (1, 3, 16, 17, 64)]  # type: ignore[union-attr]
    assert [isinstance(cut, wgmma.Cut) for cut in cuts] == [fits] * 5
    assert (model.step.plan(70).gate_up is not None) == fits


def test_the_end_of_speech_is_weighed_as_by_transformers(loaded: Loaded) -> None:
    ids = conversations(loaded)[2]
    model = graphs(loaded, 1, torch.float32)
    model.prefill(0, ids[:-1])
    model.state.start(0, ids[-1], len(ids) - 1, sampling())
    with torch.inference_mode():
        model.step.rows[:1] = 0
        model.step.enter(1)
        mine = model.step.run(1, 0)[0, END_ROW]
        logits = loaded.reference(torch.tensor([ids], device=DEVICE)).logits[0, -1]
    torch.testing.assert_close(mine, logits[loaded.checkpoint.layout.end_of_speech], atol=1e-3, rtol=1e-4)
