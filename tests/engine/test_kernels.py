"""Every Triton kernel against its reference in torch; rows are independent; shared counters are left at zero."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tests.engine.kernels import DEVICE, DTYPES, EPS, assert_equal, norm_reference, prepare, randn, scale_of
from tests.engine.language import sampling

prepare()

from engine.model import sampler  # noqa: E402
from engine.model.fp8 import Fp8Matrix, rows_of_8_bits  # noqa: E402
from engine.model.kernels.linear import Normed, Scratch, Tile, linear, linear_add, linear_reference, parts  # noqa: E402
from engine.model.kernels.norm import gate, rms_norm, to_fp8  # noqa: E402
from engine.model.kernels.sampling import Embedding, draw, enter  # noqa: E402
from engine.model.slots import NEVER_SEEN, SlotState  # noqa: E402
from engine.model.weights import END_ROW  # noqa: E402
from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS  # noqa: E402

pytestmark = pytest.mark.gpu if DEVICE.type == "cuda" else []
ONE, FEW, SPLIT, MANY = Tile(1, 4, 64), Tile(16, 16, 64), Tile(16, 32, 64, splits=2), Tile(64, 32, 64)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def matrix(outputs: int, inputs: int, dtype: torch.dtype, fp8: bool = False) -> Tensor | Fp8Matrix:
    """A weight, its rows of different sizes."""
    drawn = randn(outputs, inputs, dtype=dtype) * torch.logspace(-2, 1, outputs).to(DEVICE, dtype)[:, None]
    return Fp8Matrix.of(drawn) if fp8 else drawn


def scratch(outputs: int, rows: int, tile: Tile) -> Scratch:
    return Scratch.on(DEVICE, tile.splits * rows * outputs, 64)


# ---- products


@pytest.mark.parametrize(("inputs", "fp8"), [(64, False), (150, False), (150, True)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "tile"), [(1, ONE), (1, FEW), (5, SPLIT), (70, MANY)])
def test_a_product(dtype: torch.dtype, rows: int, tile: Tile, inputs: int, fp8: bool) -> None:
    x, weight, out = randn(rows, inputs, dtype=dtype), matrix(100, inputs, dtype, fp8), randn(rows, 100, dtype=dtype)
    shared = scratch(100, rows, tile)
    linear(x, weight, out, tile, scratch=shared)
    assert_equal(out, linear_reference(x, weight))
    assert not shared.arrived.any()


@pytest.mark.parametrize("fp8", [False, True], ids=["", "fp8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "tile"), [(1, ONE), (3, FEW)])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_a_product_completes_the_norm(dtype: torch.dtype, rows: int, tile: Tile, gated: bool, fp8: bool) -> None:
    weight = matrix(80 if gated else 40, 96, dtype, fp8)
    x = Normed(randn(rows, 96, dtype=dtype), torch.rand(rows, 3).to(DEVICE) * 50)
    out = randn(rows, 40, dtype=dtype)
    linear(x, weight, out, tile, eps=EPS, gated=gated)
    assert_equal(out, linear_reference(x, weight, eps=EPS, gated=gated))


@pytest.mark.parametrize("fp8", [False, True], ids=["", "fp8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "tile"), [(1, ONE), (3, FEW), (3, SPLIT)])
def test_a_sum_begins_the_norm(dtype: torch.dtype, rows: int, tile: Tile, fp8: bool) -> None:
    x, weight, out = randn(rows, 128, dtype=dtype), matrix(72, 128, dtype, fp8), randn(rows, 72, dtype=dtype)
    normed = Normed(out, torch.zeros(rows, parts(72, tile), device=DEVICE))
    expected = out.float() + linear_reference(x, weight)
    linear_add(x, weight, normed, tile, scratch=scratch(72, rows, tile))
    assert_equal(out, expected)
    assert_equal(normed.complete(EPS).to(dtype), norm_reference(expected))


@pytest.mark.skipif(DEVICE.type == "cpu", reason="the interpreter's products round by a row's place in the tile")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tile", [FEW, SPLIT, MANY])
def test_a_row_is_the_same_in_any_batch(dtype: torch.dtype, tile: Tile) -> None:
    x, weight = randn(16, 128, dtype=dtype), randn(64, 128, dtype=dtype)
    whole, alone = (torch.zeros(rows, 64, device=DEVICE, dtype=dtype) for rows in (16, 1))
    shared = scratch(64, 16, tile)
    linear(x, weight, whole, tile, scratch=shared)
    for row in (0, 7, 15):
        linear(x[row : row + 1], weight, alone, tile, scratch=shared)
        assert torch.equal(alone[0], whole[row])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm_and_gate(dtype: torch.dtype) -> None:
    x, rows = randn(3, 96, dtype=dtype), randn(3, 40, dtype=dtype) * 5
    normed, gated, late = torch.zeros_like(x), *(torch.zeros(3, 48, device=DEVICE, dtype=dtype) for _ in range(2))
    rms_norm(x, EPS, normed)
    gate(x, gated)
    gate(x, late, of=rows, eps=EPS)
    assert_equal(normed, norm_reference(x))
    for mine, both in ((gated, x.float()), (late, x.float() * scale_of(rows))):
        first, second = both.chunk(2, dim=-1)
        assert_equal(mine, torch.nn.functional.silu(first) * second)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_8_bits(dtype: torch.dtype) -> None:
    x = randn(4, 96, dtype=dtype) * 30
    x[2] = 0
    plain, half = torch.zeros_like(x), torch.zeros(4, 48, device=DEVICE, dtype=dtype)
    rms_norm(x, EPS, plain)
    gate(x, half)
    for expected, action in (
        (x, lambda *out: to_fp8(x, *out)),
        (plain, lambda *out: rms_norm(x, EPS, *out)),
        (half, lambda *out: gate(x, *out)),
    ):
        values = torch.zeros(expected.shape, dtype=torch.float8_e4m3fn, device=DEVICE)
        scale = torch.zeros(4, 1, device=DEVICE)
        action(values, scale)
        wanted, wanted_scale = rows_of_8_bits(expected)
        torch.testing.assert_close(scale, wanted_scale, rtol=1e-2, atol=0)
        # A value on the edge between two may fall to either side; none is further from the truth than half a step.
        error = (values.float() * scale - expected.float()).abs()
        assert (error <= expected.float().abs() / 15 + scale * 2**-9).all()
        assert (values.float() == wanted.float()).float().mean() > 0.95
        assert not values[2].float().any()


# ---- sampling

SETTINGS = [
    {"temperature": temperature, "top_p": top_p, "top_k": top_k, "repetition_penalty": penalty, "window": window}
    for temperature, top_p, top_k, penalty, window in [
        (0.0, 1.0, 0, 1.1, 0), (0.6, 0.9, 0, 1.1, 0), (0.9, 0.2, 5, 1.3, 3), (1.0, 1.0, 1, 1.0, 0),
        (1.4, 1.0, 300, 0.7, 1), (0.7, 0.95, 4097, 1.0, 0), (0.8, 1.0, 0, 2.0, 10), (1.0, 1e-6, 0, 1.0, 0),
    ]
]  # fmt: skip


@pytest.fixture
def states() -> list[SlotState]:
    """The kernel's and the reference's."""
    made = [SlotState(len(SETTINGS), DEVICE) for _ in range(2)]
    for state, (slot, setting) in itertools.product(made, enumerate(SETTINGS)):
        state.start(slot, 3, 10, sampling(seed=slot * 7919 - 5, **setting))
    return made


def table(rows: int) -> Embedding:
    return Embedding(
        randn(29_000, 40), Normed(torch.zeros(rows, 40, device=DEVICE), torch.ones(rows, 3, device=DEVICE))
    )


def test_draws_equal_the_sampler(states: list[SlotState]) -> None:
    state, plain = states
    count, first_audio = len(SETTINGS), 100
    rows = torch.arange(count, dtype=torch.int32, device=DEVICE)
    limits = torch.tensor([1, 12], device=DEVICE)
    embedding = table(count)
    codes, ended = (torch.zeros(*shape, dtype=torch.int32, device=DEVICE) for shape in ((count, 7), (count,)))
    for step, k in enumerate([0, 3, 6, 0]):
        logits = randn(count, CODEBOOK_SIZE + 4) * 3
        logits[:, END_ROW] += 6
        if step == 3:
            logits = logits.round()  # full of ties
        expected = sampler.sample(logits, k, plain, rows.long(), 1)
        draw(logits, k, state, rows, limits, embedding, codes, ended, first_audio)
        code = expected.clamp(max=CODEBOOK_SIZE - 1)
        assert codes[:, k].tolist() == code.tolist()
        if k == 0:
            assert ended.tolist() == (expected == END_ROW).int().tolist()
        plain.last_seen[rows.long(), k, code] = (plain.frame * FRAME_TOKENS + k).int()
        assert torch.equal(state.last_seen, plain.last_seen)
        assert torch.equal(state.token, first_audio + k * CODEBOOK_SIZE + code)
        if k < FRAME_TOKENS - 1:
            assert torch.equal(embedding.x.values, embedding.weight[state.token])
            assert_equal(embedding.x.complete(EPS), norm_reference(embedding.x.values))
        plain.frame += k == FRAME_TOKENS - 1
        assert torch.equal(state.frame, plain.frame)
    assert state.position.tolist() == [12] * count  # four steps from 10 on, kept below the limit


def test_a_row_without_a_stream_changes_nothing(states: list[SlotState]) -> None:
    state, plain = states
    rows = torch.full((2,), -1, dtype=torch.int32, device=DEVICE)
    embedding = table(2)
    codes, ended = (torch.zeros(*shape, dtype=torch.int32, device=DEVICE) for shape in ((2, 7), (2,)))
    limits = torch.tensor([1, 99], device=DEVICE)
    draw(randn(2, CODEBOOK_SIZE + 4), 0, state, rows, limits, embedding, codes, ended, 0)
    enter(state, rows, embedding)
    for name in ("token", "position", "frame", "last_seen"):
        assert torch.equal(getattr(state, name), getattr(plain, name))
    assert int(state.last_seen.max()) == NEVER_SEEN
    assert not embedding.x.values.any()


@pytest.mark.skipif(DEVICE.type == "cpu", reason="the interpreter refuses what has no maximum")
def test_logits_that_are_no_numbers_draw_legal_codes(states: list[SlotState]) -> None:
    state, _ = states
    rows = torch.arange(3, dtype=torch.int32, device=DEVICE)
    codes, ended = (torch.zeros(*shape, dtype=torch.int32, device=DEVICE) for shape in ((3, 7), (3,)))
    limits = torch.tensor([1, 99], device=DEVICE)
    logits = torch.full((3, CODEBOOK_SIZE + 4), torch.nan, device=DEVICE)
    draw(logits, 0, state, rows, limits, table(3), codes, ended, 0)
    assert all(0 <= code < CODEBOOK_SIZE for code in codes[:, 0].tolist())
