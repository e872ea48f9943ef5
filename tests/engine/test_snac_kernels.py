"""Each of the codec's Triton kernels against its torch reference, over rings full of what must not be heard.

On the GPU where there is one, else on the CPU under Triton's interpreter.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from engine.model.kernels.columns import Ring, matrix_parts, read_columns, whole_matrix
from engine.model.kernels.snac_lookup import CODE_OF_LATENT, lookup, lookup_reference
from engine.model.kernels.snac_noise import add_noise, noise_reference
from engine.model.kernels.snac_output import output, output_reference
from engine.model.kernels.snac_unit import UnitWeights, unit, unit_reference
from engine.model.kernels.snac_upsample import upsample, upsample_reference, upsample_weights
from engine.model.kernels.tiles import Tile
from engine.model.triton_snac import MAX_FRAMES

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
MATRIX_TYPES = [torch.float32, torch.float16, torch.bfloat16] if ON_GPU else [torch.float32]
# Relative to the values' own size. Half precision: the reference gets the same rounded operands, the rest is rounding.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}

SLOTS, COLUMNS, CHANNELS = 5, 32, 64
# Four rows: an utterance's first frame, one in its midst, one that is flushed, one that was over two frames ago.
PLACES = torch.tensor([[3, 0, 4, 1], [0, 7, 5, 9], [MAX_FRAMES, MAX_FRAMES, 5, 7], [1, -2, 2**63 - 1, 0]]).to(DEVICE)
ROWS = PLACES[0], PLACES[1], PLACES[2]
OFFSET = 17


@pytest.fixture(autouse=True)
def _float32_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The references' own convolutions in float32, not TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def alphas(count: int, seed: int) -> Tensor:
    return random(count, seed=seed).abs() + 0.3


def random_ring(columns: int, channels: int, dtype: torch.dtype) -> Ring:
    """Full of values: what a kernel must not hear, it would."""
    return Ring(*(random(SLOTS, columns, channels, seed=seed).to(dtype) * 3 for seed in (1, 2)))


def empty_ring(columns: int, channels: int, dtype: torch.dtype) -> Ring:
    return Ring(*(torch.full((SLOTS, columns, channels), torch.nan, device=DEVICE, dtype=dtype) for _ in range(2)))


def written(ring: Tensor, columns: int) -> Tensor:
    """The last frame's columns of the batch's slots; everything else must still be untouched."""
    at = (PLACES[1][:, None] * columns + torch.arange(columns, device=DEVICE)) % ring.shape[1]
    values = ring[PLACES[0][:, None], at].float()
    untouched = ring.clone()
    untouched[PLACES[0][:, None], at] = torch.nan
    assert bool(untouched.isnan().all())
    return values


def assert_close(values: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert values.shape == expected.shape
    assert float((values - expected).abs().max()) <= TOLERANCE[dtype] * float(expected.abs().max())


@pytest.mark.parametrize("dtype", MATRIX_TYPES, ids=str)
@pytest.mark.parametrize("dilation", [1, 3, 9])
def test_a_residual_unit(dtype: torch.dtype, dilation: int) -> None:
    matrix = matrix_parts(random(CHANNELS, CHANNELS, seed=3) / 8, dtype)
    weights = UnitWeights(
        random(7, CHANNELS, seed=4), random(CHANNELS, seed=5), matrix, random(CHANNELS, seed=6),
        alphas(CHANNELS, 7), alphas(CHANNELS, 8),
    )  # fmt: skip
    source = random_ring(COLUMNS + 6 * dilation, CHANNELS, dtype)
    target = empty_ring(COLUMNS + 6, CHANNELS, dtype)
    unit(source, target, *ROWS, weights, COLUMNS, OFFSET, dilation, Tile(64, 32, 32))
    assert source.plain is not None
    assert target.plain is not None
    windows = [read_columns(ring, *ROWS, COLUMNS, 6 * dilation, OFFSET) for ring in (source.snaked, source.plain)]
    plain, snaked = unit_reference(*windows, weights, dilation)
    assert_close(written(target.plain, COLUMNS), plain, dtype)
    assert_close(written(target.snaked, COLUMNS), snaked, dtype)


@pytest.mark.parametrize("dtype", MATRIX_TYPES, ids=str)
def test_the_entry_has_neither_snake_nor_residual(dtype: torch.dtype) -> None:
    matrix = matrix_parts(random(2 * CHANNELS, CHANNELS, seed=3) / 8, dtype)
    vectors = random(7, CHANNELS, seed=4), random(CHANNELS, seed=5)
    weights = UnitWeights(*vectors, matrix, random(2 * CHANNELS, seed=6), alphas(2 * CHANNELS, 7))
    source = Ring(random_ring(4 + 6, CHANNELS, dtype).snaked)
    target = Ring(empty_ring(4 + 1, 2 * CHANNELS, dtype).snaked)
    unit(source, target, *ROWS, weights, 4, 0, 1, Tile(16, 64, 64))
    seen = read_columns(source.snaked, *ROWS, 4, 6, 0)
    _, snaked = unit_reference(seen, seen, weights, 1)
    assert_close(written(target.snaked, 4), snaked, dtype)


@pytest.mark.parametrize("dtype", MATRIX_TYPES, ids=str)
def test_upsampling(dtype: torch.dtype) -> None:
    values, bias = random(CHANNELS, CHANNELS // 2, 8, seed=3) / 8, random(CHANNELS // 2, seed=4)
    weights = upsample_weights(values, bias, 4, dtype)
    source = random_ring(COLUMNS + 1, CHANNELS, dtype).snaked
    target = torch.full((4, COLUMNS, 4 * CHANNELS // 2), torch.nan, device=DEVICE, dtype=dtype)
    upsample(source, target, *ROWS, weights, COLUMNS, OFFSET, Tile(64, 64, 32))
    seen = read_columns(source, *ROWS, COLUMNS, 1, OFFSET)
    assert_close(target.float(), upsample_reference(seen, weights), dtype)


def test_the_upsampling_s_matrix_is_a_transposed_convolution() -> None:
    values, bias, x = random(6, 4, 8, seed=1), random(4, seed=2), random(2, 9, 6, seed=3)
    mine = upsample_reference(x, upsample_weights(values, bias, 4, torch.float32)).reshape(2, -1, 4)
    whole = torch.nn.functional.conv_transpose1d(x.transpose(1, 2), values, bias, stride=4)
    torch.testing.assert_close(mine.transpose(1, 2), whole[..., 4:-4], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", MATRIX_TYPES, ids=str)
def test_noise(dtype: torch.dtype) -> None:
    matrix = matrix_parts(random(CHANNELS, CHANNELS, seed=3) / 8, dtype)
    x, alpha = random(4, COLUMNS, CHANNELS, seed=4).to(dtype), alphas(CHANNELS, 5)
    target = empty_ring(COLUMNS + 6, CHANNELS, dtype)
    add_noise(x, target, *ROWS, PLACES[3], matrix, alpha, 2, COLUMNS, OFFSET, Tile(64, 32, 32))
    first = PLACES[1] * COLUMNS - OFFSET
    plain, snaked = noise_reference(x.float(), matrix, PLACES[3], 2, first, alpha)
    assert target.plain is not None
    assert_close(written(target.plain, COLUMNS), plain, dtype)
    assert_close(written(target.snaked, COLUMNS), snaked, dtype)


def test_the_end() -> None:
    source = random_ring(128 + 6, 16, torch.float32).snaked
    taps, bias = random(7, 16, seed=3) / 8, random(1, seed=4)
    samples = torch.full((4, 128), torch.nan, device=DEVICE)
    pcm = torch.zeros(4, 128, dtype=torch.int16, device=DEVICE)
    output(source, samples, pcm, *ROWS, taps, bias, 128, OFFSET)
    expected, whole = output_reference(read_columns(source, *ROWS, 128, 6, OFFSET), taps, bias)
    torch.testing.assert_close(samples, expected, atol=1e-5, rtol=0)
    # One step where a value lies at the border between two.
    assert int((pcm.int() - whole.int()).abs().max()) <= 1
    assert int(pcm.int().abs().max()) > 32_000


def test_the_lookup() -> None:
    tables = [random(4096, 48, seed=seed) for seed in range(3)]
    codes = torch.randint(4096, (4, 7), generator=torch.Generator().manual_seed(1), dtype=torch.int32).to(DEVICE)
    target = torch.full((SLOTS, 10, 48), torch.nan, device=DEVICE)
    lookup(codes, torch.tensor(CODE_OF_LATENT, dtype=torch.int32, device=DEVICE), tables, target, *ROWS)
    assert torch.equal(written(target, 4), lookup_reference(codes, tables))


def test_a_matrix_in_two_halves_is_the_matrix() -> None:
    matrix = random(16, 32)
    parts = matrix_parts(matrix, torch.float32)
    assert torch.equal(whole_matrix(parts), matrix)
    assert torch.equal(parts[0].view(torch.int32) & 0x1FFF, torch.zeros(16, 32, dtype=torch.int32, device=DEVICE))
