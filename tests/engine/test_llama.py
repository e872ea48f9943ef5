"""The language models against transformers, against each other, and against themselves in other batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from engine.model.checkpoint import DUMMY_MODELS
from engine.model.llama import TorchLlama
from engine.model.native import NativeLlama, supports
from engine.model.rope import inverse_frequencies
from engine.model.slots import Sampling
from engine.model.weights import LlamaShape, load_weights
from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS
from tests.engine.language import (
    CONTEXT,
    GREEDY,
    NEVER,
    Build,
    Loaded,
    Model,
    Voice,
    converse,
    load,
    reference_frames,
    sampling,
)
from tests.tiny import LLAMA3_ROPE, TinyLlama
from tests.tiny import VOCAB as TINY_VOCAB

VARIANTS = {
    "tied": TinyLlama(),
    "untied": TinyLlama(tied=False, seed=1),
    "llama3-rope": TinyLlama(rope=LLAMA3_ROPE, seed=2),
    "bf16": TinyLlama(dtype=torch.bfloat16, seed=3),
    "sharded": TinyLlama(tied=False, shard_size="2MB", seed=4),
    "like-orpheus": TinyLlama(rope=LLAMA3_ROPE, dtype=torch.bfloat16, shard_size="2MB", seed=6),
    "heads-wider-than-hidden": TinyLlama(heads=4, kv_heads=2, head_dim=24, seed=7),
}
TEXTS = [f"{word} number {i}, said once{' more' * i}." for i, word in enumerate(["one", "two", "three", "four"] * 4)]
SETTINGS = {
    "orpheus": sampling(seed=11),
    "hot": sampling(seed=12, temperature=1.4, top_p=1.0, repetition_penalty=1.0),
    "top-k-and-p": sampling(seed=15, top_k=200, top_p=0.7, temperature=0.9),
    "tight-nucleus": sampling(seed=16, top_p=0.05),
    "short-window": sampling(seed=17, window=20, repetition_penalty=2.0, temperature=0.3),
    "reward": sampling(seed=18, repetition_penalty=0.7, window=70),
    "greedy": GREEDY,
    "greedy-with-penalty": sampling(seed=19, temperature=0.0, repetition_penalty=1.5),
    "negative-seed": sampling(seed=-(2**63)),
    "largest-seed": sampling(seed=2**63 - 1),
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest, llama_folder: Callable[[TinyLlama], Path]) -> Loaded:
    return load(llama_folder(VARIANTS[request.param]))


@pytest.fixture(scope="module")
def tied(llama_folder: Callable[[TinyLlama], Path]) -> Loaded:
    return load(llama_folder(VARIANTS["tied"]))


@pytest.fixture(scope="module", params=["torch", "native"])
def build(request: pytest.FixtureRequest, tied: Loaded, kernel_cache: Path) -> Build:
    """`build(slots)`: a fresh engine of either kind over the same weights."""
    if request.param == "torch":
        return tied.plain
    return lambda slots=1: tied.native(kernel_cache, slots)


@torch.inference_mode()
def reference_logits(loaded: Loaded, ids: list[int]) -> torch.Tensor:
    return loaded.reference(torch.tensor([ids])).logits[0]


# ---- against transformers


def test_prefill_gives_the_logits_of_transformers(variant: Loaded) -> None:
    ids = variant.ids("A prompt, and then some more of it, so that it is longer than a few tokens.")
    model = variant.plain(slots=3)
    model.keys.fill_(7.0)
    model.values.fill_(-7.0)
    logits = model.logits(model.prefill(1, ids))
    torch.testing.assert_close(logits, reference_logits(variant, ids), atol=1e-4, rtol=0)


def test_steps_give_the_logits_of_transformers(variant: Loaded) -> None:
    prompt = variant.ids("Hello.")
    generator = torch.Generator().manual_seed(0)
    spoken = torch.randint(variant.checkpoint.shape.vocab, (40,), generator=generator).tolist()
    expected = reference_logits(variant, prompt + spoken)
    model = variant.plain(slots=3)
    model.prefill(2, prompt)
    for at, token in enumerate(spoken, start=len(prompt)):
        hidden = model.step(torch.tensor([token]), torch.tensor([2]), torch.tensor([at]), length=at + 1)
        torch.testing.assert_close(model.logits(hidden)[0], expected[at], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_norms_are_folded_into_what_reads_them(variant: Loaded) -> None:
    checkpoint = variant.checkpoint
    weights = load_weights(variant.folder, checkpoint.shape, checkpoint.layout, torch.device("cpu"), torch.float32)
    ids = variant.ids("Folded once, and then again.")
    for _ in range(2):  # the second time nothing is left to be done
        weights.fold_norms()
        folded = TorchLlama(checkpoint.shape, weights, checkpoint.layout, 1, CONTEXT)
        mine, theirs = (model.prefill(0, ids) @ model.weights.head.mT for model in (folded, variant.plain()))
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
        assert all((layer.input_norm == 1).all() and (layer.post_norm == 1).all() for layer in weights.layers)


def test_steps_at_different_positions_in_one_batch(tied: Loaded) -> None:
    prompts = [tied.ids("Hi."), tied.ids("A longer prompt than the other one."), tied.ids("Third")]
    model = tied.plain(slots=4)
    slots = [3, 0, 2]
    for slot, ids in zip(slots, prompts, strict=True):
        model.prefill(slot, ids)
    positions = torch.tensor([len(ids) for ids in prompts])
    hidden = model.step(torch.tensor([200, 300, 400]), torch.tensor(slots), positions, length=int(positions.max()) + 9)
    for row, (ids, token) in enumerate(zip(prompts, (200, 300, 400), strict=True)):
        expected = reference_logits(tied, [*ids, token])[-1]
        torch.testing.assert_close(model.logits(hidden)[row], expected, atol=1e-4, rtol=0)


def test_200_greedy_tokens_over_the_whole_vocabulary_equal_transformers(variant: Loaded) -> None:
    ids = variant.ids("Good morning.")
    model = variant.plain()
    tokens = [int(model.logits(model.prefill(0, ids))[-1].argmax())]
    while len(tokens) < 200:
        at = len(ids) + len(tokens) - 1
        hidden = model.step(torch.tensor(tokens[-1:]), torch.tensor([0]), torch.tensor([at]), length=at + 1)
        tokens.append(int(model.logits(hidden)[0].argmax()))
    # Each is the best after those before it, which is what `generate` would take; one pass tells it of all.
    expected = reference_logits(variant, ids + tokens)[len(ids) - 1 : -1].argmax(-1)
    assert tokens == expected.tolist()
    assert len(set(tokens)) > 3, "the text must not be one token for ever, or this proves little"


def test_greedy_frames_equal_transformers_and_each_other(variant: Loaded, kernel_cache: Path) -> None:
    ids = variant.ids("Frames of seven codes.")
    expected = reference_frames(variant, ids, frames=20)
    assert converse(variant.plain(), [Voice(ids, GREEDY, frames=20)]) == [expected]
    assert supports(variant.checkpoint.shape, variant.weights)
    assert converse(variant.native(kernel_cache), [Voice(ids, GREEDY, frames=20)]) == [expected]
    assert len({tuple(frame) for frame in expected}) > 3


def test_the_kernel_reads_bf16_weights_as_they_are(
    llama_folder: Callable[[TinyLlama], Path], kernel_cache: Path
) -> None:
    loaded = load(llama_folder(VARIANTS["bf16"]))
    halves = loaded.weights.to(torch.bfloat16)
    for before, after in zip(loaded.weights.layers, halves.layers, strict=True):
        assert torch.equal(before.qkv, after.qkv.float()), "the checkpoint was stored in bf16: nothing may be lost"
    model = NativeLlama(loaded.checkpoint.shape, halves, loaded.checkpoint.layout, 1, 640, kernel_cache)
    ids = loaded.ids("Half the bytes.")
    voice = Voice(ids, sampling(seed=5), frames=20)
    assert converse(model, [voice]) == converse(loaded.native(kernel_cache), [Voice(ids, sampling(seed=5), frames=20)])


def test_rope_frequencies_of_the_real_shape_equal_transformers() -> None:
    config = DUMMY_MODELS["orpheus-3b"]
    shape = LlamaShape.from_config(config, "orpheus-3b")

    class Config:
        rope_parameters = {**config["rope_scaling"], "rope_theta": config["rope_theta"]}  # noqa: RUF012
        head_dim = config["head_dim"]
        hidden_size = config["hidden_size"]
        num_attention_heads = config["num_attention_heads"]
        max_position_embeddings = config["max_position_embeddings"]

        def standardize_rope_params(self) -> None: ...

    expected, scale = ROPE_INIT_FUNCTIONS["llama3"](Config(), torch.device("cpu"))
    assert scale == 1.0
    torch.testing.assert_close(inverse_frequencies(shape.rope, shape.head_dim), expected, atol=0, rtol=1e-6)


# ---- batches


def test_16_prompts_together_equal_the_16_alone(build: Build, tied: Loaded) -> None:
    prompts = [tied.ids(text) for text in TEXTS]
    together = build(slots=16)
    batch = converse(together, [Voice(ids, GREEDY, slot=slot, frames=6) for slot, ids in enumerate(prompts)])
    assert len({str(codes) for codes in batch}) == 16
    for slot, ids in enumerate(prompts):
        assert converse(build(slots=1), [Voice(ids, GREEDY, frames=6)]) == [batch[slot]]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 13])
def test_native_caches_are_bitwise_equal_in_any_batch(tied: Loaded, kernel_cache: Path, rows: int) -> None:
    prompts = [tied.ids(text) for text in TEXTS[:rows]]
    together = tied.native(kernel_cache, slots=rows)
    batch = converse(together, [Voice(ids, sampling(seed=slot), slot=slot) for slot, ids in enumerate(prompts)])
    for slot, ids in enumerate(prompts):
        alone = tied.native(kernel_cache, slots=1)
        assert converse(alone, [Voice(ids, sampling(seed=slot))]) == [batch[slot]]
        assert torch.equal(alone.keys[:, 0], together.keys[:, slot])
        assert torch.equal(alone.values[:, 0], together.values[:, slot])


def test_native_prefill_does_not_depend_on_how_it_is_cut_into_rows(tied: Loaded, kernel_cache: Path) -> None:
    ids = tied.ids("A prompt of more than twice thirty-two tokens, which is the number of rows that are run at once.")
    whole = tied.native(kernel_cache)
    whole.prefill(0, ids)
    for count in (1, 2, 31, 32, 33, 63, 64, 65):
        part = tied.native(kernel_cache)
        part.prefill(0, ids[:count])
        assert torch.equal(part.keys[:, 0, :, :count], whole.keys[:, 0, :, :count])
        assert torch.equal(part.values[:, 0, :, :count], whole.values[:, 0, :, :count])
        assert not part.keys[:, 0, :, count:].any()


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_share_out_a_batch_without_changing_it(tied: Loaded, kernel_cache: Path, threads: int) -> None:
    def speak(threads: int) -> tuple[list[list[list[int]]], NativeLlama]:
        checkpoint = tied.checkpoint
        model = NativeLlama(checkpoint.shape, tied.weights, checkpoint.layout, 7, 320, kernel_cache, threads)
        voices = [Voice(tied.ids(TEXTS[i]), sampling(seed=i), slot=6 - i, joins=i % 3) for i in range(7)]
        return converse(model, voices), model

    (alone, one), (shared, many) = speak(1), speak(threads)
    assert shared == alone
    assert torch.equal(many.keys, one.keys)
    assert torch.equal(many.values, one.values)


def test_a_prompt_in_pieces_fills_the_cache_as_a_whole_one_does(tied: Loaded, kernel_cache: Path) -> None:
    ids = tied.ids("A prompt that is cut into pieces of all sizes, which must not be seen in the cache.")
    whole = tied.native(kernel_cache)
    whole.prefill(0, ids)
    for size in (1, 7, 31, 32, 33, 48):
        pieces = tied.native(kernel_cache)
        for start in range(0, len(ids), size):
            pieces.prefill(0, ids[start : start + size], start)
        assert torch.equal(pieces.keys, whole.keys)
        assert torch.equal(pieces.values, whole.values)


def test_native_caches_equal_torch(tied: Loaded, kernel_cache: Path) -> None:
    ids = tied.ids("The same numbers in the cache, to rounding.")
    native, plain = tied.native(kernel_cache), tied.plain()
    assert converse(native, [Voice(ids, GREEDY)]) == converse(plain, [Voice(ids, GREEDY)])
    torch.testing.assert_close(native.keys, plain.keys, atol=1e-4, rtol=0)
    torch.testing.assert_close(native.values, plain.values, atol=1e-4, rtol=0)


def test_rows_that_join_and_leave_change_nothing_for_the_others(build: Build, tied: Loaded) -> None:
    plan = [  # slot, joins, frames
        (4, 0, 14),
        (1, 0, 3),
        (0, 2, 5),
        (1, 4, 9),
        (3, 4, 1),
        (0, 8, 6),
        (2, 9, 2),
    ]
    batch = [
        Voice(tied.ids(TEXTS[i]), sampling(seed=i), slot=slot, joins=joins, frames=frames)
        for i, (slot, joins, frames) in enumerate(plan)
    ]
    converse(build(slots=5), batch)
    for voice in batch:
        assert len(voice.codes) == voice.frames
        assert converse(build(slots=1), [Voice(voice.ids, voice.sampling, frames=voice.frames)]) == [voice.codes]


# ---- seeds


def test_a_seed_gives_the_same_codes_in_a_used_slot(build: Build, tied: Loaded) -> None:
    ids, other = tied.ids("Again."), tied.ids("Something else that is longer, and leaves its traces.")
    model = build(slots=2)
    first = converse(model, [Voice(ids, sampling(seed=3), slot=1)])
    converse(model, [Voice(other, sampling(seed=4, repetition_penalty=3.0, top_k=5), slot=1, frames=20)])
    assert converse(model, [Voice(ids, sampling(seed=3), slot=1)]) == first
    assert converse(model, [Voice(ids, sampling(seed=3), slot=0)]) == first


def test_different_seeds_give_different_codes(build: Build, tied: Loaded) -> None:
    ids = tied.ids("Again.")
    spoken = {str(converse(build(slots=1), [Voice(ids, sampling(seed=seed))])) for seed in (0, 1, 2, -1, 2**62)}
    assert len(spoken) == 5


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_sampled_frames_of_the_kernel_equal_torch(tied: Loaded, kernel_cache: Path, setting: Sampling) -> None:
    ids = tied.ids("Twelve frames.")
    native = converse(tied.native(kernel_cache), [Voice(ids, setting, frames=12)])
    assert native == converse(tied.plain(), [Voice(ids, setting, frames=12)])


@pytest.mark.parametrize("names", [["orpheus"], list(SETTINGS)], ids=["alone", "in one batch"])
def test_60_sampled_frames_of_the_kernel_equal_torch(tied: Loaded, kernel_cache: Path, names: list[str]) -> None:
    def spoken(model: Model) -> dict[str, list[list[int]]]:
        """Each setting in a row of its own."""
        ids = tied.ids("Sixty frames.")
        voices = [Voice(ids, SETTINGS[name], slot=slot, frames=60) for slot, name in enumerate(names)]
        return dict(zip(names, converse(model, voices), strict=True))

    assert spoken(tied.native(kernel_cache, len(names))) == spoken(tied.plain(len(names)))


def test_streams_end_at_the_same_frame_on_both(ending_model: Path, kernel_cache: Path) -> None:
    loaded = load(ending_model)
    lengths = []
    for seed in range(6):
        ids = loaded.ids(TEXTS[seed])
        voices = [Voice(ids, sampling(seed=seed), frames=70, min_frames=1) for _ in range(2)]
        assert converse(loaded.native(kernel_cache), voices[:1]) == converse(loaded.plain(), voices[1:])
        assert [voice.ended for voice in voices] == [True, True]
        lengths.append(len(voices[0].codes))
    assert min(lengths) >= 1
    assert len(set(lengths)) > 2


def test_a_row_that_ends_changes_nothing_for_the_others(ending_model: Path, kernel_cache: Path) -> None:
    loaded = load(ending_model)
    for build in (loaded.plain, lambda slots=1: loaded.native(kernel_cache, slots)):
        batch = [
            Voice(loaded.ids(text), sampling(seed=i), slot=i, frames=70, min_frames=1)
            for i, text in enumerate(TEXTS[:6])
        ]
        converse(build(slots=6), batch)
        for i, voice in enumerate(batch):
            alone = Voice(loaded.ids(TEXTS[i]), sampling(seed=i), frames=70, min_frames=1)
            assert converse(build(slots=1), [alone]) == [voice.codes]
            assert alone.ended
            assert voice.ended


def test_codes_are_in_range_and_the_next_token_is_the_code(build: Build, tied: Loaded) -> None:
    model = build(slots=1)
    codes = converse(model, [Voice(tied.ids("Range."), sampling(temperature=2.0, top_p=1.0), frames=30)])[0]
    assert all(0 <= code < CODEBOOK_SIZE for frame in codes for code in frame)
    assert int(model.state.token[0]) == tied.checkpoint.layout.first_audio + 6 * CODEBOOK_SIZE + codes[-1][-1]
    assert int(model.state.frame[0]) == 30
    assert int(model.state.position[0]) == len(tied.ids("Range.")) - 1 + 30 * FRAME_TOKENS


# ---- the kernel's borders


@pytest.mark.parametrize("slot", [-1, 2, 10**9])
def test_the_kernel_refuses_a_slot_that_does_not_exist(tied: Loaded, kernel_cache: Path, slot: int) -> None:
    model = tied.native(kernel_cache, slots=2)
    with pytest.raises(IndexError):
        model.prefill(slot, [1, 2, 3])
    with pytest.raises(IndexError):
        model.decode_frame([0, slot], 10, 0)


def test_the_kernel_refuses_the_same_slot_twice(tied: Loaded, kernel_cache: Path) -> None:
    with pytest.raises(IndexError):
        tied.native(kernel_cache, slots=2).decode_frame([1, 0, 1], 10, 0)


@pytest.mark.parametrize("token", [-1, TINY_VOCAB, 2**40])
def test_the_kernel_refuses_a_token_outside_of_the_vocabulary(tied: Loaded, kernel_cache: Path, token: int) -> None:
    with pytest.raises(IndexError):
        tied.native(kernel_cache).prefill(0, [1, token, 1])


def test_a_full_context_is_used_to_its_last_position(build: Build, tied: Loaded, kernel_cache: Path) -> None:
    ids = tied.ids("Full.")
    context = len(ids) + 5 * FRAME_TOKENS
    native, plain = tied.native(kernel_cache, context=context), tied.plain(context=context)
    expected = converse(build(slots=1), [Voice(ids, sampling(), frames=5)])
    assert converse(native, [Voice(ids, sampling(), frames=5)]) == expected
    assert converse(plain, [Voice(ids, sampling(), frames=5)]) == expected


def test_the_kernel_refuses_what_does_not_fit_its_context(tied: Loaded, kernel_cache: Path) -> None:
    # The second slot is there so that a write past the first one's end stays inside the cache.
    model = tied.native(kernel_cache, slots=2, context=16)
    with pytest.raises((IndexError, ValueError)):
        model.prefill(0, [1] * 17)
    model.prefill(0, [1] * 9)
    model.state.start(0, 1, 9, sampling())
    model.decode_frame([0], 16, NEVER)
    with pytest.raises((IndexError, ValueError)):
        model.decode_frame([0], 23, NEVER)
    assert not model.keys[:, 1].any(), "nothing may be written into another slot"


@pytest.mark.parametrize("changes", [{"hidden": 48}, {"intermediate": 100}, {"head_dim": 20}, {"intermediate": 24}])
def test_the_kernel_declines_dimensions_that_it_cannot_read(tied: Loaded, changes: dict[str, int]) -> None:
    shape = LlamaShape(**{**vars(tied.checkpoint.shape), **changes})
    assert not supports(shape, tied.weights)


def test_the_kernel_declines_half_precision(tied: Loaded) -> None:
    assert not supports(tied.checkpoint.shape, tied.weights.to(torch.float16))
