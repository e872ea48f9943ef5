"""A step by the plans for Hopper equals plain torch: what its kernels are given and what is done with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.model.llama import TorchLlama
from engine.model.weights import load_weights
from tests.engine.hopper import take_hoppers_place
from tests.engine.kernels import DEVICE, prepare
from tests.engine.language import CONTEXT, Loaded, load, sampling
from tests.tiny import LLAMA3_ROPE, TinyLlama

if DEVICE.type == "cuda":
    pytest.skip("the kernels themselves are tested here", allow_module_level=True)
prepare()

from engine.model.backends import TritonAttention  # noqa: E402
from engine.model.fused import FusedStep  # noqa: E402
from engine.model.plans import hopper, plans_of  # noqa: E402

STREAMS = 3


@pytest.fixture(scope="module")
def loaded(llama_folder: Callable[[TinyLlama], Path]) -> Loaded:
    """Its residual stream is one whole part of a norm and a piece of another."""
    return load(llama_folder(TinyLlama(rope=LLAMA3_ROPE, hidden=160, heads=5, seed=2)))


@pytest.mark.parametrize(
    ("count", "kernels"),
    [
        (1, {"product", "product_add", "attend"}),
        (17, {"product", "product_add", "attend"}),
        (65, {"product", "attend"}),  # gate and up
        (257, {"attend"}),
    ],
)
@torch.inference_mode()
def test_a_step(loaded: Loaded, monkeypatch: pytest.MonkeyPatch, count: int, kernels: set[str]) -> None:
    ran = take_hoppers_place(monkeypatch)
    shape, layout = loaded.checkpoint.shape, loaded.checkpoint.layout
    folded, stored = (load_weights(loaded.folder, shape, layout, DEVICE, torch.float32) for _ in range(2))
    folded.fold_norms()
    plain = TorchLlama(shape, stored, layout, STREAMS, CONTEXT)
    for slot in range(STREAMS):
        ids = loaded.ids(f"Number {slot}{' and more' * slot}.")
        plain.prefill(slot, ids[:-1])
        plain.state.start(slot, ids[-1], len(ids) - 1, sampling())
    keys, values = plain.keys.clone(), plain.values.clone()
    plans = plans_of(folded, keys, kernels=hopper(shape, folded, keys))
    step = FusedStep(
        shape, folded, keys, values, plain.cos, plain.sin, plain.state, count, False, plans, TritonAttention()
    )
    # All but the first rows are nobody's.
    rows = torch.arange(min(count, STREAMS))
    step.rows[: len(rows)] = rows
    step.enter(count)
    logits = step.run(count, 3)[: len(rows)]
    assert ran == kernels
    hidden = plain.step(plain.state.token[rows], rows, plain.state.position[rows], CONTEXT)
    torch.testing.assert_close(logits, hidden @ plain.weights.head[3].T, atol=1e-4, rtol=1e-4)
    for mine, theirs in ((keys, plain.keys), (values, plain.values)):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
