"""A layer of many rows equals the same layer in plain torch, with weights of 16 and of 8 bits, and rows of 8 bits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.engine.kernels import DEVICE, DTYPES, EPS, norm_reference, prepare, randn, scale_of

prepare()

from engine.model.fp8 import Fp8Matrix, Matrix, plain, rows_of_8_bits  # noqa: E402
from engine.model.library import finish, in_8_bits, project  # noqa: E402
from engine.model.weights import LayerWeights  # noqa: E402

pytestmark = pytest.mark.gpu if DEVICE.type == "cuda" else []
HIDDEN, HEADS, INNER = 64, 96, 80
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def layer_of(dtype: torch.dtype, fp8: bool, hidden: int = HIDDEN) -> LayerWeights:
    torch.manual_seed(0)

    def matrix(outputs: int, inputs: int) -> Matrix:
        drawn = randn(outputs, inputs, dtype=dtype) / inputs**0.5
        return Fp8Matrix.of(drawn) if fp8 else drawn

    ones = torch.ones(hidden, device=DEVICE, dtype=dtype)
    return LayerWeights(
        ones, matrix(2 * HEADS, hidden), matrix(hidden, HEADS), ones, matrix(2 * INNER, hidden), matrix(hidden, INNER)
    )


def product(x: Tensor, matrix: Matrix) -> Tensor:
    """Float32, with the rows rounded to 8 bits where `engine.model.library` does so."""
    if in_8_bits(x, matrix):
        values, scale = rows_of_8_bits(x)
        return F.linear(values.float() * scale, plain(matrix, torch.float32)).to(x.dtype)
    return F.linear(x.float(), plain(matrix, torch.float32)).to(x.dtype)


def norm(x: Tensor) -> Tensor:
    return norm_reference(x).to(x.dtype)


def expected_after(x: Tensor, attended: Tensor, layer: LayerWeights) -> Tensor:
    x = x + product(attended, layer.attn_out)
    gate, up = product(norm(x), layer.gate_up).float().chunk(2, dim=-1)
    return x + product((F.silu(gate) * up).to(x.dtype), layer.down)


@pytest.mark.parametrize("fp8", [False, True], ids=["", "fp8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [3, 70])
@torch.inference_mode()
def test_a_layer(dtype: torch.dtype, rows: int, fp8: bool) -> None:
    layer = layer_of(dtype, fp8)
    x, attended = randn(rows, HIDDEN, dtype=dtype), randn(rows, HEADS, dtype=dtype)
    qkv = torch.empty(rows, 2 * HEADS, device=DEVICE, dtype=dtype)
    after = expected_after(x, attended, layer)
    wanted = product(norm(x), layer.qkv)
    norms = project(x, layer, EPS, qkv)
    assert (norms is None) == in_8_bits(x, layer.qkv)
    if norms is not None:
        torch.testing.assert_close(norms, scale_of(x)[:, 0])
        qkv = (qkv.float() * norms[:, None]).to(dtype)
    finish(x, attended, layer, EPS)
    for mine, theirs in ((qkv, wanted), (x, after)):
        assert (mine.float() - theirs.float()).norm() / theirs.float().norm() < TOLERANCE[dtype]


def test_rows_stay_whole_where_8_bits_do_not_fit() -> None:
    layer = layer_of(torch.bfloat16, fp8=True)
    rows = torch.zeros(3, HIDDEN, dtype=torch.bfloat16)
    assert in_8_bits(rows, layer.qkv)
    assert not in_8_bits(rows.float(), layer.qkv)
    assert not in_8_bits(rows, plain(layer.qkv, torch.bfloat16))
    assert not in_8_bits(rows, layer_of(torch.bfloat16, fp8=True, hidden=40).qkv)
