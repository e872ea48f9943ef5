"""Attention's Triton kernels, and those that turn and keep, against their references in torch."""

from __future__ import annotations

import pytest
import torch

from tests.engine.kernels import DEVICE, DTYPES, assert_equal, prepare, randn

prepare()

from engine.model.attention import prefill_attention  # noqa: E402
from engine.model.kernels.attention import attend, attend_reference, scratch_sizes  # noqa: E402
from engine.model.kernels.linear import Scratch  # noqa: E402
from engine.model.kernels.prompt import attend_prompts  # noqa: E402
from engine.model.kernels.rope import turn_and_keep  # noqa: E402
from engine.model.kernels.rope_rows import turn_rows  # noqa: E402

pytestmark = pytest.mark.gpu if DEVICE.type == "cuda" else []


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


KV, GROUP, DIM, CONTEXT = 2, 3, 32, 96


ATTENTION = [(dtype, None, *cut) for dtype in DTYPES for cut in ((1, 16), (4, 16), (8, 32))]
ATTENTION += [(dtype, torch.float8_e4m3fn, 4, 16) for dtype in (*DTYPES, torch.float16)]


@pytest.mark.parametrize(("dtype", "kept", "splits", "block"), ATTENTION, ids=str)
def test_attention(dtype: torch.dtype, kept: torch.dtype | None, splits: int, block: int) -> None:
    qkv = randn(4, (KV * GROUP + 2 * KV) * DIM, dtype=dtype)
    keys, values = (randn(5, KV, CONTEXT, DIM, dtype=dtype).to(kept or dtype) for _ in range(2))
    cos, sin = randn(CONTEXT, DIM // 2), randn(CONTEXT, DIM // 2)
    rows = torch.tensor([2, -1, 0, 4], dtype=torch.int32, device=DEVICE)
    positions = torch.tensor([70, 9, 0, 9, CONTEXT - 1], device=DEVICE)
    plain_keys, plain_values = keys.clone(), values.clone()
    expected = attend_reference(qkv, plain_keys, plain_values, rows, positions, cos, sin)
    shared = Scratch.on(DEVICE, *scratch_sizes(4, KV * GROUP, DIM, splits))
    for _ in range(2):  # the second time with counters as the first left them
        out = torch.zeros(4, KV * GROUP * DIM, device=DEVICE, dtype=dtype)
        attend(qkv, keys, values, rows, positions, cos, sin, out, shared, splits=splits, block=block)
        assert_equal(out, expected)
    assert not out[1].any()
    assert not shared.arrived.any()
    # 8 bits may differ by a whole step where the exact key lies between two of their numbers.
    assert_equal(keys.to(dtype) if kept is None else keys.bfloat16(), plain_keys)
    assert torch.equal(values.float(), plain_values.float())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_norms_a_product(dtype: torch.dtype) -> None:
    qkv, norms = randn(2, (KV * GROUP + 2 * KV) * DIM, dtype=dtype), torch.tensor([0.2, 3.0], device=DEVICE)
    keys, values = (randn(2, KV, CONTEXT, DIM, dtype=dtype) for _ in range(2))
    cos, sin = randn(CONTEXT, DIM // 2), randn(CONTEXT, DIM // 2)
    rows, positions = torch.tensor([1, 0], dtype=torch.int32, device=DEVICE), torch.tensor([0, 60], device=DEVICE)
    plain, turned = (keys.clone(), values.clone()), (keys.clone(), values.clone())
    normed = (qkv.float() * norms[:, None]).to(dtype)
    expected = attend_reference(normed, *plain, rows, positions, cos, sin)
    out, shared = torch.zeros_like(expected), Scratch.on(DEVICE, *scratch_sizes(2, KV * GROUP, DIM, 2))
    attend(qkv, keys, values, rows, positions, cos, sin, out, shared, norms=norms, splits=2, block=16)
    assert_equal(out, expected)
    turn_rows(qkv, *turned, rows, positions, cos, sin, norms)
    for mine, theirs in zip((keys, values, *turned), (*plain, *plain), strict=True):
        assert_equal(mine, theirs)


def test_keys_and_values_of_8_bits_saturate() -> None:
    qkv = randn(1, (KV * GROUP + 2 * KV) * DIM) * 1000
    keys, values = (torch.zeros(1, KV, 16, DIM, device=DEVICE, dtype=torch.float8_e4m3fn) for _ in range(2))
    cos, sin = torch.ones(16, DIM // 2, device=DEVICE), torch.zeros(16, DIM // 2, device=DEVICE)
    row, position = torch.zeros(1, dtype=torch.int32, device=DEVICE), torch.tensor([0], device=DEVICE)
    out, shared = torch.zeros(1, KV * GROUP * DIM, device=DEVICE), Scratch.on(DEVICE, 4096, 64)
    turn_and_keep(qkv.clone(), keys, values, row, cos, sin)
    expected = qkv.view(-1, KV, DIM)[-2:].clamp(-448, 448).to(torch.float8_e4m3fn).float()
    assert torch.equal(torch.stack([keys[0, :, 0], values[0, :, 0]]).float(), expected)
    attend(qkv, keys, values, row, position, cos, sin, out, shared, splits=1, block=16)
    assert torch.equal(torch.stack([keys[0, :, 0], values[0, :, 0]]).float(), expected)
    assert torch.equal(out.view(KV, GROUP, DIM), expected[1][:, None].expand(KV, GROUP, DIM))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_prompt_is_turned_and_kept(dtype: torch.dtype) -> None:
    qkv = randn(5, (KV * GROUP + 2 * KV) * DIM, dtype=dtype)
    keys, values = (torch.zeros(3, KV, CONTEXT, DIM, device=DEVICE, dtype=dtype) for _ in range(2))
    cos, sin = randn(CONTEXT, DIM // 2), randn(CONTEXT, DIM // 2)
    heads = qkv.clone().view(5, -1, DIM)
    a, b = heads[:, : (GROUP + 1) * KV].float().chunk(2, dim=-1)
    c, s = cos[:5, None], sin[:5, None]
    turned = torch.cat((a * c - b * s, b * c + a * s), dim=-1)
    turn_and_keep(qkv, keys, values, torch.tensor([1], device=DEVICE), cos, sin)
    assert_equal(qkv.view(5, -1, DIM)[:, : (GROUP + 1) * KV], turned)
    assert_equal(keys[1, :, :5], turned[:, GROUP * KV :].transpose(0, 1))
    assert torch.equal(values[1, :, :5], heads[:, (GROUP + 1) * KV :].transpose(0, 1))
    assert not keys[[0, 2]].any()
    assert not keys[1, :, 5:].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "kept"), [(5, None), (16, None), (48, None), (16, torch.float8_e4m3fn)], ids=str)
def test_short_prompts_attend(dtype: torch.dtype, tokens: int, kept: torch.dtype | None) -> None:
    """What is kept in 8 bits saturates; a prompt attends to its own keys and values as they were."""
    qkv = randn(2 * tokens, (KV * GROUP + 2 * KV) * DIM, dtype=dtype)
    if kept:
        qkv.view(2 * tokens, -1, DIM)[:, KV * GROUP :] *= 300
    cos, sin = randn(CONTEXT, DIM // 2), randn(CONTEXT, DIM // 2)
    (keys, values), plain = (torch.zeros(2, 3, KV, CONTEXT, DIM, device=DEVICE, dtype=kept or dtype) for _ in range(2))
    slots, out = torch.tensor([2, 0], device=DEVICE), qkv.new_zeros(2 * tokens, KV * GROUP * DIM)
    attend_prompts(qkv, keys, values, slots, cos, sin, out)
    turned = qkv.clone()
    turn_and_keep(turned, *plain, slots, cos, sin)
    heads = turned.view(2, tokens, -1, DIM).transpose(1, 2).split((KV * GROUP, KV, KV), dim=1)
    assert_equal(out, prefill_attention(*heads).flatten(0, 1))
    if kept:
        # Between two numbers of 8 bits the last bit of a turned key decides.
        assert (keys.float() != plain[0].float()).float().mean() < 0.01
        assert keys.float().abs().max() == 448
    else:
        assert_equal(keys, plain[0])
    assert torch.equal(values.float(), plain[1].float())


def test_prompts_of_one_pass_go_to_their_own_slots() -> None:
    qkv = randn(2 * 5, (KV * GROUP + 2 * KV) * DIM)
    cos, sin = randn(CONTEXT, DIM // 2), randn(CONTEXT, DIM // 2)
    together, alone = (torch.zeros(2, 3, KV, CONTEXT, DIM, device=DEVICE) for _ in range(2))
    for part, slot in ((qkv[:5].clone(), 2), (qkv[5:].clone(), 0)):
        turn_and_keep(part, *alone, torch.tensor([slot], device=DEVICE), cos, sin)
    turn_and_keep(qkv, *together, torch.tensor([2, 0], device=DEVICE), cos, sin)
    assert torch.equal(together, alone)
    assert together[:, [0, 2]].any()
