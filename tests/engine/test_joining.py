"""Prompts that a frame's first step reads beside its rows: as if they had been read before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.model.llama import TorchLlama
from engine.model.weights import LlamaWeights, load_weights
from tests.engine.kernels import DEVICE, assert_equal, prepare
from tests.engine.language import CONTEXT, GREEDY, NEVER, Loaded, load, sampling
from tests.tiny import LLAMA3_ROPE, TinyLlama

prepare()

from engine.model.backends import TritonAttention  # noqa: E402
from engine.model.fused import FusedStep, Prompts  # noqa: E402
from engine.model.graphs import BESIDE, GraphLlama  # noqa: E402
from engine.model.plans import PLANS  # noqa: E402
from engine.model.prompts import FEW_TOKENS  # noqa: E402

pytestmark = pytest.mark.gpu if DEVICE.type == "cuda" else []
on_gpu = pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device")


@pytest.fixture(scope="module")
def loaded(llama_folder: Callable[[TinyLlama], Path]) -> Loaded:
    torch.backends.cuda.matmul.allow_tf32 = False
    return load(llama_folder(TinyLlama(rope=LLAMA3_ROPE, hidden=96, heads=6, kv_heads=2, seed=2)))


@pytest.fixture(scope="module")
def proportioned(llama_folder: Callable[[TinyLlama], Path]) -> Loaded:
    """With heads as Orpheus' and sizes that kernels for one kind of GPU want."""
    return load(llama_folder(TinyLlama(hidden=384, heads=6, kv_heads=2, head_dim=128, intermediate=1024, seed=7)))


def weights_of(loaded: Loaded, dtype: torch.dtype = torch.float32, fp8: bool = False) -> LlamaWeights:
    return load_weights(loaded.folder, loaded.checkpoint.shape, loaded.checkpoint.layout, DEVICE, dtype, fp8=fp8)


def prompt(loaded: Loaded, number: int, length: int) -> list[int]:
    """Of so many tokens and one more, which a stream is started with."""
    return (loaded.ids(f"Number {number}. ") * 60)[: length + 1]


def model_of(loaded: Loaded, slots: int, dtype: torch.dtype = torch.float32, **options: object) -> GraphLlama:
    shape, layout = loaded.checkpoint.shape, loaded.checkpoint.layout
    fp8 = bool(options.pop("fp8", False))
    return GraphLlama(shape, weights_of(loaded, dtype, fp8), layout, slots, CONTEXT, **options)  # type: ignore[arg-type]


@torch.inference_mode()
def test_a_step_goes_on_from_the_prompts_that_it_reads(loaded: Loaded) -> None:
    """Two streams go on, two begin, and a row has none."""
    shape, layout, head = loaded.checkpoint.shape, loaded.checkpoint.layout, 0
    folded = weights_of(loaded)
    folded.fold_norms()
    plain = TorchLlama(shape, weights_of(loaded), layout, 4, CONTEXT)
    prompts = [prompt(loaded, slot, length) for slot, length in enumerate((20, 9, 16, 5))]
    for slot in (0, 1):
        plain.prefill(slot, prompts[slot][:-1])
    for slot, ids in enumerate(prompts):
        plain.state.start(slot, ids[-1], len(ids) - 1, sampling())
    keys, values = plain.keys.clone(), plain.values.clone()
    attention = TritonAttention()
    step = FusedStep(
        shape, folded, keys, values, plain.cos, plain.sin, plain.state, FEW_TOKENS, False, PLANS, attention
    )
    padded = [ids[:-1] + [0] * (16 - len(ids[:-1])) for ids in (prompts[2], prompts[3])]
    beside = Prompts(torch.tensor(padded, device=DEVICE).flatten(), torch.tensor([2, 3], device=DEVICE))
    slots = [3, 0, 2, 1]
    step.rows[:4] = torch.tensor(slots)
    step.enter(5, beside)
    logits = step.run(5, head, beside)[:4]
    for slot in (2, 3):
        plain.prefill(slot, prompts[slot][:-1])
    rows = torch.tensor(slots, device=DEVICE)
    hidden = plain.step(plain.state.token[rows], rows, plain.state.position[rows], CONTEXT)
    assert_equal(logits, hidden @ plain.weights.head[head].T)
    for mine, theirs in ((keys, plain.keys), (values, plain.values)):
        for slot, ids in enumerate(prompts):
            torch.testing.assert_close(mine[:, slot, :, : len(ids)], theirs[:, slot, :, : len(ids)], atol=1e-4, rtol=0)


@on_gpu
@pytest.mark.parametrize("kept", [None, torch.float8_e4m3fn], ids=["", "fp8 cache"])
@pytest.mark.parametrize("lengths", [(12,), (45,), (12, 15), (12, 13, 14), (12, 100)], ids=str)
@pytest.mark.parametrize("slots", [4, 16, 64])
def test_streams_that_join_speak_as_after_a_pass_of_their_own(
    loaded: Loaded, slots: int, lengths: tuple[int, ...], kept: torch.dtype | None
) -> None:
    """Whether a frame reads their prompts or, where they are too many or too long, they are read before it."""
    first = [(slot, prompt(loaded, slot, 7 + slot % 5)) for slot in range(slots - len(lengths))]
    then = [(slots - 1 - i, prompt(loaded, i, length)) for i, length in enumerate(lengths)]
    said, caches = [], []
    for joined in (False, True):
        model, frames = model_of(loaded, slots, kv_dtype=kept), []
        for prompts in (first, then):
            for slot, ids in prompts:
                model.state.start(slot, ids[-1], len(ids) - 1, GREEDY)
            (model.join if joined else model.prefill_all)([(slot, ids[:-1]) for slot, ids in prompts])
            live = list(range(slots if prompts is then else len(first)))
            frames += [codes for _ in range(2) for codes in model.decode_frame(live, CONTEXT, NEVER)[0].tolist()]
        said.append(frames)
        caches.append(torch.stack((model.keys, model.values)).float())
    for slot, ids in then:
        mine, theirs = (cache[:, :, slot, :, : len(ids) - 1] for cache in caches)
        assert (mine - theirs).norm() <= (1e-5 if kept is None else 0.04) * theirs.norm()
    # The others are disturbed by nobody. Between two codes of almost one weight the last bit of a sum decides.
    alike = [mine == theirs for mine, theirs in zip(*said, strict=True)]
    assert sum(alike) > (0.97 if kept is None else 0.8) * len(alike)
    if kept is None:
        joiners = [alike[2 * len(first) + slot] for slot, _ in then]
        assert sum(joiners) > len(joiners) / 2


@on_gpu
@pytest.mark.parametrize("lengths", [(12,), (45,), (12, 15)], ids=str)
@pytest.mark.parametrize("slots", [4, 16, 32])
def test_prompts_beside_rows_in_bf16(proportioned: Loaded, slots: int, lengths: tuple[int, ...]) -> None:
    """A prompt's keys and values differ by rounding from those of a pass of its own; the others' are the same."""
    others = [(slot, prompt(proportioned, slot, 7 + slot % 5)) for slot in range(slots - len(lengths))]
    joiners = [(slots - 1 - i, prompt(proportioned, i, length)) for i, length in enumerate(lengths)]
    caches = []
    for joined in (False, True):
        model = model_of(proportioned, slots, torch.bfloat16)
        for slot, ids in others + joiners:
            model.state.start(slot, ids[-1], len(ids) - 1, GREEDY)
        model.prefill_all([(slot, ids[:-1]) for slot, ids in others])
        (model.join if joined else model.prefill_all)([(slot, ids[:-1]) for slot, ids in joiners])
        model.decode_frame(list(range(slots)), CONTEXT, NEVER)
        caches.append(torch.stack((model.keys, model.values)).float())
    for slot, ids in others + joiners:
        mine, theirs = (cache[:, :, slot, :, : len(ids) - 1] for cache in caches)
        assert (mine - theirs).norm() <= (0.0 if (slot, ids) in others else 0.03) * theirs.norm()


@on_gpu
def test_who_joins_last_in_a_slot_speaks(loaded: Loaded) -> None:
    """Whoever was there before never began."""
    model, plain = (model_of(loaded, 2) for _ in range(2))
    first, second = prompt(loaded, 1, 20), prompt(loaded, 2, 14)
    model.join([(1, first[:-1])])
    model.join([(1, second[:-1])])
    plain.prefill(1, second[:-1])
    for one in (model, plain):
        one.state.start(1, second[-1], len(second) - 1, GREEDY)
    assert model.decode_frame([1], CONTEXT, NEVER)[0].tolist() == plain.decode_frame([1], CONTEXT, NEVER)[0].tolist()
    torch.testing.assert_close(model.keys[:, 1, :, :15], plain.keys[:, 1, :, :15], atol=1e-4, rtol=0)


@on_gpu
@pytest.mark.parametrize("options", [{"invariant": True}, {"attention": "sdpa"}, {"fp8": True}], ids=str)
def test_where_prompts_are_read_before_a_frame(loaded: Loaded, options: dict[str, object]) -> None:
    model, plain = (model_of(loaded, 4, torch.bfloat16, **dict(options)) for _ in range(2))
    ids = prompt(loaded, 1, 20)
    model.join([(2, ids[:-1])])
    plain.prefill(2, ids[:-1])
    for one in (model, plain):
        one.state.start(2, ids[-1], len(ids) - 1, GREEDY)
    assert model.decode_frame([2], CONTEXT, NEVER)[0].tolist() == plain.decode_frame([2], CONTEXT, NEVER)[0].tolist()
    assert torch.equal(model.keys, plain.keys)


def test_prompts_beside_rows_fit_a_plan_of_tiles() -> None:
    plan = next(plan for plan in PLANS if plan.rows >= FEW_TOKENS)
    assert plan.tiles
    assert all(many * size < FEW_TOKENS for many, size in BESIDE)
