"""Matrices of 8 bits: how near they are, what stays exact, and which paths compute with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine import ConfigError, EngineConfig
from engine.model.checkpoint import dummy_checkpoint
from engine.model.fp8 import LARGEST, Fp8Matrix, saturated
from engine.model.llama import TorchLlama
from engine.model.runner import ModelRunner
from engine.model.weights import LlamaWeights, load_weights, random_weights
from tests.engine.language import CPU, Voice, converse, load, sampling

MATRICES = ("qkv", "attn_out", "gate_up", "down")


def rows_of_all_sizes() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(64, 256) * torch.logspace(-20, 15, 64)[:, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_values_are_within_half_a_step(dtype: torch.dtype) -> None:
    exact = rows_of_all_sizes().to(dtype)
    matrix = Fp8Matrix.of(exact)
    error = (matrix.dequantised(torch.float32) - exact.float()).abs()
    # Three bits of fraction; below 2^-6 steps no longer shrink.
    assert (error <= torch.maximum(exact.float().abs() / 16, matrix.scale[:, None] * 2**-10)).all()
    assert torch.isfinite(matrix.values.float()).all()
    # As large as they may be: half of the scale would overflow.
    assert (exact.float().abs().amax(1) / matrix.scale > LARGEST / 2).all()


def test_a_scale_is_a_power_of_two_and_so_bf16_loses_nothing() -> None:
    matrix = Fp8Matrix.of(rows_of_all_sizes())
    assert (torch.frexp(matrix.scale)[0] == 0.5).all()
    assert torch.equal(matrix.dequantised(torch.bfloat16).float(), matrix.dequantised(torch.float32))


def test_a_row_of_zeros_and_the_largest_values() -> None:
    exact = torch.zeros(4, 8)
    exact[1], exact[2], exact[3] = LARGEST, LARGEST * (1 + 2**-20), 3e38
    back = Fp8Matrix.of(exact).dequantised(torch.float32)
    assert not back[0].any()
    assert torch.equal(back[1], exact[1])
    torch.testing.assert_close(back[2:], exact[2:], rtol=1 / 16, atol=0)


@pytest.fixture(scope="module")
def weights(tiny_model: Path) -> tuple[LlamaWeights, LlamaWeights]:
    """As stored, and with layers of 8 bits."""
    loaded = load(tiny_model)
    shape, layout = loaded.checkpoint.shape, loaded.checkpoint.layout
    return loaded.weights, load_weights(tiny_model, shape, layout, CPU, torch.float32, fp8=True)


def test_the_layers_alone_are_quantised(weights: tuple[LlamaWeights, LlamaWeights]) -> None:
    exact, small = weights
    assert (exact.quantised, small.quantised, small.to(torch.float32).quantised) == (False, True, False)
    assert small.parameters == exact.parameters
    for name in ("embed", "norm", "lm_head", "head"):
        assert torch.equal(getattr(small, name), getattr(exact, name))
    for mine, theirs in zip(small.layers, exact.layers, strict=True):
        folded = {"qkv": theirs.input_norm, "gate_up": theirs.post_norm}
        for name in MATRICES:
            matrix = getattr(mine, name)
            assert matrix.values.dtype == torch.float8_e4m3fn
            expected = Fp8Matrix.of(getattr(theirs, name) * folded.get(name, 1.0))
            assert torch.equal(matrix.dequantised(torch.float32), expected.dequantised(torch.float32))
        assert (mine.input_norm == 1).all()
        assert (mine.post_norm == 1).all()


def test_a_norm_is_not_folded_into_8_bits(tiny_model: Path) -> None:
    loaded = load(tiny_model)
    small = load_weights(tiny_model, loaded.checkpoint.shape, loaded.checkpoint.layout, CPU, torch.float32, fp8=True)
    small.fold_norms()
    small.layers[0].post_norm[3] = 1.5
    with pytest.raises(ValueError, match="before that is rounded"):
        small.fold_norms()


def test_random_weights_are_quantised_too() -> None:
    checkpoint = dummy_checkpoint("orpheus-3b")
    shape = type(checkpoint.shape)(
        **{
            **vars(checkpoint.shape),
            "layers": 1,
            "hidden": 64,
            "intermediate": 96,
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 16,
        }
    )
    drawn = [random_weights(shape, checkpoint.layout, CPU, torch.bfloat16, seed=1, fp8=fp8) for fp8 in (False, True)]
    assert drawn[1].quantised
    back = drawn[1].to(torch.bfloat16).layers[0].gate_up
    torch.testing.assert_close(back, drawn[0].layers[0].gate_up, rtol=1 / 15, atol=1e-3)


@pytest.mark.parametrize("kernel", ["native", "torch"])
def test_the_cpu_speaks_with_the_quantised_numbers(
    engine_config: Callable[..., EngineConfig],
    tiny_model: Path,
    weights: tuple[LlamaWeights, LlamaWeights],
    kernel: str,
) -> None:
    runner = ModelRunner(engine_config(quantization="fp8", cpu_kernel=kernel))
    assert (runner.info.kernel, runner.info.dtype) == (kernel, "float32, fp8 weights")
    loaded = load(tiny_model)
    ids = loaded.ids("Eight bits.")
    heard = converse(runner.model, [Voice(ids, sampling(seed=3), frames=4)])
    loaded.weights = weights[1].to(torch.float32)
    assert heard == converse(loaded.plain(), [Voice(ids, sampling(seed=3), frames=4)])
    loaded.weights = weights[0]
    assert heard != converse(loaded.plain(), [Voice(ids, sampling(seed=3), frames=4)])


def test_keys_and_values_of_8_bits_on_the_cpu(tiny_model: Path) -> None:
    loaded = load(tiny_model)
    shape, layout = loaded.checkpoint.shape, loaded.checkpoint.layout
    ids = loaded.ids("Eight bits.")
    exact = loaded.plain()
    small = TorchLlama(shape, loaded.weights, layout, 1, exact.context, torch.float8_e4m3fn)
    for model in (exact, small):
        model.prefill(0, ids)
    for mine, theirs in ((small.keys, exact.keys), (small.values, exact.values)):
        # A prompt attends to itself before anything is rounded.
        assert torch.equal(mine.float(), theirs.to(torch.float8_e4m3fn).float())
    tokens, slot, position = (torch.tensor([value]) for value in (ids[-1], 0, len(ids)))
    hidden = [model.step(tokens, slot, position, len(ids) + 1) for model in (exact, small)]
    error = (hidden[1] - hidden[0]).norm() / hidden[0].norm()
    assert 0 < error < 0.15
    new = saturated(exact.values[0, 0, :, len(ids)], torch.float8_e4m3fn)
    assert torch.equal(small.values[0, 0, :, len(ids)].float(), new.float())


def test_what_8_bits_cannot_hold_becomes_their_largest() -> None:
    huge = torch.tensor([1e4, -465.0, 448.0, 1.0])
    assert saturated(huge, torch.float8_e4m3fn).float().tolist() == [448.0, -448.0, 448.0, 1.0]
    assert torch.equal(saturated(huge, torch.float32), huge)


def test_the_cpu_keeps_8_bits_in_torch_alone(engine_config: Callable[..., EngineConfig]) -> None:
    runner = ModelRunner(engine_config(kv_dtype="fp8"))
    assert runner.info.kernel == "torch"
    assert runner.model.keys.dtype == torch.float8_e4m3fn
    with pytest.raises(ConfigError, match="kv_dtype is fp8"):
        ModelRunner(engine_config(kv_dtype="fp8", cpu_kernel="native"))
