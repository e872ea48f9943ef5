"""Kernels of CUDA C++: on a Hopper GPU against plain torch; elsewhere they are compiled at least.

They have no interpreter. What they are to compute is what Triton's kernels compute, whose references serve here, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from engine.model.rope import rope_tables
from engine.model.weights import LlamaWeights
from tests.engine.kernels import DEVICE, EPS, TOLERANCE, assert_equal, prepare, randn

prepare()

from engine.model import plans as plans_module  # noqa: E402
from engine.model.fp8 import Fp8Matrix  # noqa: E402
from engine.model.kernels import grouped, nvrtc, wgmma  # noqa: E402
from engine.model.kernels.attention import attend_reference  # noqa: E402
from engine.model.kernels.linear import Normed, linear_reference, parts  # noqa: E402
from engine.model.kernels.nvrtc import NvrtcError, is_hopper, unusable  # noqa: E402
from engine.model.kernels.wgmma import Cut, product, product_add  # noqa: E402
from engine.model.plans import Hopper, Plan, hopper, plans_of  # noqa: E402

SHARED = sorted({(cut.splits, cut.warps, cut.stages) for cut in plans_module.CUTS_GROUPED.values()})
ROOM = 229_376  # bytes of shared memory for stages, of a Hopper GPU
BF16 = torch.bfloat16
on_hopper = pytest.mark.skipif(not is_hopper(DEVICE), reason="no Hopper GPU")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# ---- which run


def weights(quantised: bool) -> LlamaWeights:
    return SimpleNamespace(quantised=quantised)  # type: ignore[return-value]


def test_plans_for_hopper_end_as_the_others_do() -> None:
    keys = torch.zeros(1, dtype=BF16)
    all_kinds = itertools.product((False, True), (BF16, torch.float8_e4m3fn), (False, True))
    for quantised, kind, invariant in all_kinds:
        for kernels in (Hopper(), Hopper(products=True), Hopper(products=True, attention=True)):
            plans = plans_of(weights(quantised), keys.to(kind), invariant, kernels)
            rows = [plan.rows for plan in plans]
            assert rows == sorted(set(rows))
            assert rows[-1] == (64 if invariant else 2**20)
            grouped_too = {plan.rows for plan in plans if plan.attention.grouped}
            assert grouped_too == (set(rows) if kernels.attention else set())


def attention_of(plans: tuple[Plan, ...], *counts: int) -> list[tuple[int, int, int]]:
    """What these numbers of rows attend with: programs and warps that share a head's keys, and stages."""
    cuts = [next(plan.attention for plan in plans if plan.rows >= count) for count in counts]
    return [(cut.splits, cut.warps, cut.stages) for cut in cuts]


@pytest.mark.parametrize("quantised", [False, True], ids=["", "8-bit weights"])
@pytest.mark.parametrize("invariant", [False, True], ids=["", "invariant"])
@pytest.mark.parametrize("products", [False, True], ids=["", "products"])
def test_each_number_of_rows_has_the_attention_that_is_for_it(quantised: bool, invariant: bool, products: bool) -> None:
    kernels = Hopper(products=products and not quantised, attention=True)
    plans = plans_of(weights(quantised), torch.zeros(1, dtype=BF16), invariant, kernels)
    expected = [(4, 4, 2), *[(2, 4, 2)] * 2, *[(1, 2, 4)] * 2, *[(1, 2, 3)] * 2, *[(1, 1, 3)] * 2]
    assert attention_of(plans, 1, 2, 8, 9, 16, 17, 32, 33, 64) == expected
    assert invariant or attention_of(plans, 65, 300) == [(1, 1, 3)] * 2


def test_keys_of_8_bits_have_cuts_of_their_own_in_all_plans() -> None:
    keys = torch.zeros(1, dtype=torch.float8_e4m3fn)
    for kernels in (Hopper(), Hopper(products=True)):
        plans = plans_of(weights(False), keys, kernels=kernels)
        expected = [(16, 8, 1), *[(4, 1, 3)] * 2, *[(1, 2, 3)] * 2, *[(1, 1, 3)] * 2]
        assert attention_of(plans, 1, 2, 16, 17, 64, 65, 300) == expected


def test_elsewhere_than_on_hopper_none_of_them_runs() -> None:
    if is_hopper(DEVICE):
        pytest.skip("this is one")
    assert hopper(SimpleNamespace(), SimpleNamespace(), torch.zeros(1, device=DEVICE)) == Hopper()  # type: ignore[arg-type]


def test_what_cannot_be_compiled_is_told_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plans_module, "is_hopper", lambda device: True)
    monkeypatch.setattr(plans_module, "unusable", lambda device: "no compiler")
    assert hopper(SimpleNamespace(), SimpleNamespace(), torch.zeros(1)) == Hopper()  # type: ignore[arg-type]
    assert "no compiler" in caplog.text


def test_a_part_of_a_gpu_without_room_for_a_cluster_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(shared_memory_per_block_optin=1))
    for clusters, said in ((33, None), (0, "no 4 multiprocessors near each other")):
        monkeypatch.setattr(nvrtc, "Kernel", lambda *_, n=clusters: SimpleNamespace(clusters=lambda size: n))
        assert unusable.__wrapped__(DEVICE) == said


def test_no_plan_has_larger_clusters() -> None:
    tiles = [plan.tiles for plan in plans_module.PLANS_WGMMA if plan.tiles]
    splits = [cut.splits for each in tiles for cut in (each.qkv, each.attn_out, each.down)]
    assert max(splits) <= nvrtc.CLUSTER
    assert max(cut.splits for cut in plans_module.CUTS_GROUPED.values()) <= nvrtc.CLUSTER


def test_matrices_that_do_not_fit_are_left_to_the_others() -> None:
    def zeros(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    assert wgmma.fits(zeros(256, 192))
    assert not wgmma.fits(zeros(200, 192))
    assert not wgmma.fits(zeros(256, 96))
    assert not wgmma.fits(zeros(256, 192, dtype=torch.float16))
    assert not wgmma.fits(zeros(192, 256).T)
    assert not wgmma.fits(Fp8Matrix.of(zeros(256, 192)))
    assert grouped.fits(zeros(1, 128), BF16, 3)
    assert not grouped.fits(zeros(1, 64), BF16, 3)
    assert not grouped.fits(zeros(1, 128), BF16, 9)
    assert not grouped.fits(zeros(1, 128, dtype=torch.float8_e4m3fn), BF16, 3)
    assert not grouped.fits(zeros(1, 128), torch.float32, 3)


@pytest.mark.parametrize(
    ("rows", "tiles"),
    [(1, (8, 1)), (16, (16, 1)), (17, (24, 1)), (256, (256, 1)), (257, (136, 2)), (512, (256, 2)), (600, (200, 3))],
)
def test_a_batch_is_padded_by_less_than_a_step_a_tile(rows: int, tiles: tuple[int, int]) -> None:
    assert wgmma.padded(rows) == tiles


# ---- compiled


@pytest.fixture(scope="module")
def compiler() -> Callable[[str], bytes]:
    """-> machine code; skips where there is no NVRTC."""
    pytest.importorskip("cuda.bindings")
    try:
        nvrtc.compiled("")
    except RuntimeError as error:
        pytest.skip(f"no NVRTC: {error}")
    return nvrtc.compiled


@pytest.mark.parametrize(
    ("rows", "mode", "cut"),
    [
        (8, wgmma.STORE, Cut(2, late=True)), (8, wgmma.ADD, Cut(4)), (8, wgmma.GATED, Cut()), (48, wgmma.ADD, Cut(4)),
        (64, wgmma.GATED, Cut()),
        (256, wgmma.GATED, Cut()), (256, wgmma.ADD, Cut(4)), (160, wgmma.STORE, Cut()),
    ],
    ids=str,
)  # fmt: skip
def test_products_compile(compiler: Callable[[str], bytes], rows: int, mode: int, cut: Cut) -> None:
    assert compiler(wgmma.source(rows, mode, cut, ROOM // wgmma.stage_bytes(rows)))[:4] == b"\x7fELF"


@pytest.mark.parametrize(("group", "cut"), [(1, SHARED[0]), (8, SHARED[-1]), *((3, cut) for cut in SHARED)])
def test_attention_compiles(compiler: Callable[[str], bytes], group: int, cut: tuple[int, int, int]) -> None:
    assert compiler(grouped.source(group, 8, *cut))[:4] == b"\x7fELF"


def test_a_kernel_is_compiled_once(
    compiler: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cuda.bindings import nvrtc as library

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    first = compiler('extern "C" __global__ void twice() {}')
    monkeypatch.setattr(library, "nvrtcCompileProgram", lambda *arguments: pytest.fail("compiled again"))
    assert compiler('extern "C" __global__ void twice() {}') == first


def test_the_compilers_words_are_told(compiler: Callable[[str], bytes]) -> None:
    with pytest.raises(NvrtcError, match="nonsense"):
        compiler("nonsense;")


def test_sums_that_do_not_fit_where_the_stages_were_are_refused() -> None:
    with pytest.raises(AssertionError):
        wgmma.source(256, wgmma.ADD, Cut(2), ROOM // wgmma.stage_bytes(256))


# ---- products


def matrix(outputs: int, inputs: int) -> Tensor:
    """A weight, its rows of different sizes."""
    return randn(outputs, inputs, dtype=BF16) * torch.logspace(-2, 0, outputs).to(DEVICE, BF16)[:, None]


def assert_columns_equal(actual: Tensor, expected: Tensor) -> None:
    """Column by column, however small one is."""
    size = expected.norm(dim=0).clamp(min=1e-20)
    assert_equal((actual.float() / size).to(BF16), expected / size)


def empty(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    """What is not written is no number."""
    return torch.full(shape, torch.nan, device=DEVICE, dtype=dtype)


SIZES = [(128, 64), (384, 192), (640, 1024)]
ROWS = [1, 8, 16, 17, 40, 64, 90, 256, 300]


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("early", [False, True], ids=["", "early"])
@pytest.mark.parametrize("splits", [1, 2, 4])
@pytest.mark.parametrize("rows", ROWS)
def test_a_product_completes_the_norm(rows: int, splits: int, early: bool) -> None:
    if splits == 2 and rows > 240:
        pytest.skip("no room for their sums")
    for outputs, inputs in SIZES:
        weight, out = matrix(outputs, inputs), empty(rows, outputs)
        x = Normed(randn(rows, inputs, dtype=BF16), torch.rand(rows, 3).to(DEVICE) * 50)
        product(x, weight, out, Cut(splits, late=True), eps=EPS, early=early)
        assert_columns_equal(out, linear_reference(x, weight, eps=EPS))
        product(x.values, weight, out.fill_(torch.nan), Cut(splits), early=early)
        assert_columns_equal(out, linear_reference(x.values, weight))


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("early", [False, True], ids=["", "early"])
@pytest.mark.parametrize("rows", ROWS)
def test_a_gated_product(rows: int, early: bool) -> None:
    for outputs, inputs in SIZES:
        weight, out = matrix(outputs * 2, inputs), empty(rows, outputs)
        x = Normed(randn(rows, inputs, dtype=BF16), torch.rand(rows, 3).to(DEVICE) * 50)
        expected = linear_reference(x, weight, eps=EPS, gated=True)
        product(x, weight, out, Cut(), eps=EPS, gated=True, early=early)
        assert_columns_equal(out, expected)
        norms = torch.rsqrt(x.squares.sum(1) / inputs + EPS)
        product(x.values, weight, out.fill_(torch.nan), Cut(), gated=True, norms=norms, early=early)
        assert_columns_equal(out, expected)


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("early", [False, True], ids=["", "early"])
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("rows", ROWS)
def test_a_sum_begins_the_norm(rows: int, splits: int, early: bool) -> None:
    for outputs, inputs in SIZES:
        x, weight, out = randn(rows, inputs, dtype=BF16), matrix(outputs, inputs), randn(rows, outputs, dtype=BF16)
        cut = Cut(splits)
        normed = Normed(out, empty(rows, parts(outputs, cut), dtype=torch.float32))
        expected = out.float() + linear_reference(x, weight)
        product_add(x, weight, normed, cut, early=early)
        assert_columns_equal(out, expected)
        torch.testing.assert_close(normed.squares.sum(1), out.float().square().sum(1), rtol=1e-4, atol=0)


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("splits", [1, 4])
def test_a_row_is_the_same_in_any_batch(splits: int) -> None:
    x, weight, found = randn(256, 512, dtype=BF16), matrix(384, 512), []
    for rows in (3, 16, 40, 64, 128, 256):
        out = torch.zeros(rows, 384, device=DEVICE, dtype=BF16)
        product_add(x[:rows], weight, Normed(out, empty(rows, 3, dtype=torch.float32)), Cut(splits))
        found.append(out[:3])
    assert all(torch.equal(out, found[0]) for out in found)


@on_hopper
@pytest.mark.gpu
def test_products_that_follow_one_another_early_wait_for_what_they_read() -> None:
    """Sixty in a row, each of what the last has written; as one after another that are launched late."""
    weight = matrix(512, 512) / 16
    results = []
    for early in (False, True):
        x = [torch.ones(64, 512, device=DEVICE, dtype=BF16), torch.zeros(64, 512, device=DEVICE, dtype=BF16)]
        squares = torch.zeros(64, 4, device=DEVICE)
        for i in range(60):
            product_add(x[i % 2], weight, Normed(x[1 - i % 2], squares), Cut(4), early=early)
        results.append(torch.stack([*x]))
    assert results[0].isfinite().all()
    assert torch.equal(*results)


# ---- attention


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("early", [False, True], ids=["", "early"])
@pytest.mark.parametrize("scaled", [False, True], ids=["", "norms"])
@pytest.mark.parametrize(("splits", "warps", "stages"), SHARED)
@pytest.mark.parametrize(
    ("group", "kv_heads", "context"), [(3, 8, 200), (1, 2, 100), (4, 2, 640), (8, 1, 64), (3, 2, 2600)]
)
def test_attention(
    group: int, kv_heads: int, context: int, splits: int, warps: int, stages: int, scaled: bool, early: bool
) -> None:
    """Positions at the edges of blocks among them; of what lies behind a position in the cache nothing is seen."""
    slots, dim = 12, grouped.DIM
    positions = torch.tensor([0, 1, 31, 32, 33, 63, context - 1, *torch.randint(context, (5,)).tolist()])
    positions = positions.clamp(max=context - 1).to(DEVICE)
    keys, values = (randn(slots, kv_heads, context, dim, dtype=BF16) for _ in range(2))
    for cache, slot in itertools.product((keys, values), range(slots)):
        cache[slot, :, positions[slot] :] = torch.nan
    rows = torch.randperm(slots).int()
    rows[5] = -1
    rows = rows.to(DEVICE)
    cos, sin = rope_tables({"rope_type": "default", "rope_theta": 10_000.0}, dim, context, DEVICE)
    qkv = randn(slots, (group + 2) * kv_heads * dim, dtype=BF16) * 2
    norms = torch.rand(slots).to(DEVICE) + 0.5 if scaled else None
    mine, theirs = ([keys.clone(), values.clone()] for _ in range(2))
    out = empty(slots, group * kv_heads * dim)
    grouped.attend(
        qkv, *mine, rows, positions, cos, sin, out, splits=splits, warps=warps, stages=stages, norms=norms, early=early
    )
    normed = qkv.float() * (norms[:, None] if norms is not None else 1.0)
    expected = attend_reference(normed, *theirs, rows, positions, cos, sin)
    live = rows >= 0
    assert_equal(out[live], expected[live])
    assert out[~live].isnan().all()  # nobody's row
    for cache, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(cache, wanted, rtol=TOLERANCE[BF16], atol=1e-2, equal_nan=True)


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize(("splits", "warps", "stages"), SHARED)
def test_a_rows_attention_is_the_same_in_any_batch(splits: int, warps: int, stages: int) -> None:
    slots, kv_heads, context = 40, 2, 128
    keys, values = (randn(slots, kv_heads, context, 128, dtype=BF16) for _ in range(2))
    positions = torch.randint(context, (slots,)).to(DEVICE)
    cos, sin = rope_tables({"rope_type": "default", "rope_theta": 10_000.0}, 128, context, DEVICE)
    qkv, rows = randn(slots, 5 * kv_heads * 128, dtype=BF16), torch.arange(slots, dtype=torch.int32, device=DEVICE)
    whole, alone = empty(slots, 3 * kv_heads * 128), empty(1, 3 * kv_heads * 128)
    attend = partial(grouped.attend, splits=splits, warps=warps, stages=stages)
    attend(qkv, keys, values, rows, positions, cos, sin, whole)
    for row in (0, 17, 39):
        one = slice(row, row + 1)
        attend(qkv[one], keys, values, rows[one], positions, cos, sin, alone)
        assert torch.equal(alone[0], whole[row])


@on_hopper
@pytest.mark.gpu
def test_the_kernels_can_be_used_here() -> None:
    assert unusable(DEVICE) is None
