"""A prompt's keys and values come out the same whichever way its tokens are multiplied, and as in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.model.attention import prefill_attention
from engine.model.llama import TorchLlama
from engine.model.weights import load_weights
from tests.engine.kernels import DEVICE, prepare
from tests.engine.language import CONTEXT, Loaded, load
from tests.tiny import LLAMA3_ROPE, TinyLlama

prepare()

from engine.model.kernels.prompt import attend_prompts  # noqa: E402
from engine.model.kernels.rope import turn_and_keep  # noqa: E402
from engine.model.plans import SOME  # noqa: E402
from engine.model.prompts import FEW_TOKENS, few_tokens, many_tokens  # noqa: E402

pytestmark = pytest.mark.gpu if DEVICE.type == "cuda" else []
SLOTS = [2, 0]
SIZE = 12  # the longer prompt's; the other is padded


@pytest.fixture(scope="module")
def loaded(llama_folder: Callable[[TinyLlama], Path]) -> Loaded:
    return load(llama_folder(TinyLlama(rope=LLAMA3_ROPE, hidden=96, heads=6, kv_heads=2, seed=2)))


@torch.inference_mode()
@pytest.mark.parametrize("few", [True, False], ids=["few", "many"])
def test_a_prompts_keys_and_values(loaded: Loaded, few: bool) -> None:
    shape, layout = loaded.checkpoint.shape, loaded.checkpoint.layout
    stored, weights = (load_weights(loaded.folder, shape, layout, DEVICE, torch.float32) for _ in range(2))
    plain = TorchLlama(shape, stored, layout, 3, CONTEXT)
    weights.fold_norms()
    prompts = [(loaded.ids("A prompt.") * 5)[:length] for length in (SIZE, 7)]
    for slot, ids in zip(SLOTS, prompts, strict=True):
        plain.prefill(slot, ids)
    keys, values = torch.zeros_like(plain.keys), torch.zeros_like(plain.values)
    slots = torch.tensor(SLOTS, device=DEVICE)

    def attend_few(i: int, qkv: Tensor) -> Tensor:
        out = qkv.new_zeros(qkv.shape[0], shape.heads * shape.head_dim)
        attend_prompts(qkv, keys[i], values[i], slots, plain.cos, plain.sin, out)
        return out

    def keep(i: int, qkv: Tensor, norms: Tensor | None) -> None:
        turn_and_keep(qkv, keys[i], values[i], slots, plain.cos, plain.sin, norms)

    def attend(qkv: Tensor) -> Tensor:
        heads = (shape.heads, shape.kv_heads, shape.kv_heads)
        parts = qkv.view(len(SLOTS), SIZE, -1, shape.head_dim).transpose(1, 2).split(heads, dim=1)
        return prefill_attention(*parts).flatten(0, 1)

    padded = torch.tensor([ids + [0] * (SIZE - len(ids)) for ids in prompts], device=DEVICE)
    assert padded.numel() <= FEW_TOKENS
    x = weights.embed[padded.flatten()]
    if few:
        assert SOME.tiles
        few_tokens(x, weights, shape, SOME.tiles, attend_few, early=False)
    else:
        many_tokens(x, weights, shape, keep, attend, early=False)
    for mine, theirs in ((keys, plain.keys), (values, plain.values)):
        for slot, ids in zip(SLOTS, prompts, strict=True):
            torch.testing.assert_close(mine[:, slot, :, : len(ids)], theirs[:, slot, :, : len(ids)], atol=1e-4, rtol=0)
        assert not mine[:, 1].any()
