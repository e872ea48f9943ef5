"""Every attention backend gives what the reference gives, also in a CUDA graph; what one cannot do is said by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine import ConfigError
from engine.model.llama import TorchLlama
from engine.model.weights import load_weights
from tests.engine.kernels import DEVICE, DTYPES, assert_equal, prepare, randn
from tests.engine.language import load, sampling
from tests.tiny import LLAMA3_ROPE, TinyLlama

prepare()

from engine.model import backends  # noqa: E402
from engine.model.backends import (  # noqa: E402
    Attention,
    AttentionBackend,
    FlashAttention,
    SdpaAttention,
    TritonAttention,
    attention_backend,
)  # fmt: skip
from engine.model.fused import FusedStep  # noqa: E402
from engine.model.kernels.attention import attend_reference, scratch_sizes  # noqa: E402
from engine.model.kernels.linear import Scratch  # noqa: E402
from engine.model.plans import Plan  # noqa: E402

pytestmark = pytest.mark.gpu if DEVICE.type == "cuda" else []
SLOTS, KV, GROUP, DIM, CONTEXT = 5, 2, 3, 128, 300
ROWS, POSITIONS = [2, -1, 0, 4], [170, 9, 0, 9, CONTEXT - 1]
BACKENDS = [
    pytest.param(kind, dtype, id=f"{kind.name}-{str(dtype).removeprefix('torch.')}")
    for kind, dtypes in ((TritonAttention, DTYPES), (SdpaAttention, DTYPES), (FlashAttention, [torch.bfloat16]))
    for dtype in dtypes
]


def made(kind: type[AttentionBackend]) -> AttentionBackend:
    """Skips where flash-attn or its GPU is not there."""
    if kind is FlashAttention:
        if DEVICE.type == "cpu":
            pytest.skip("flash-attn needs a GPU")
        try:
            importlib.import_module("flash_attn")
        except ImportError as error:
            pytest.skip(f"flash-attn cannot be imported: {error}")
    return kind()


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    # So that a batch of four rows is gathered in more than one piece.
    monkeypatch.setattr(backends, "GATHERED_ROWS", 3)


class Step:
    """One layer's attention of four rows on buffers that stay where they are, recorded in a graph on a GPU."""

    def __init__(self, backend: AttentionBackend, dtype: torch.dtype, cut: Attention) -> None:
        self.keys, self.values = (randn(SLOTS, KV, CONTEXT, DIM, dtype=dtype) for _ in range(2))
        self.cos, self.sin = randn(CONTEXT, DIM // 2), randn(CONTEXT, DIM // 2)
        self.qkv = randn(len(ROWS), (KV * GROUP + 2 * KV) * DIM, dtype=dtype)
        self.rows = torch.full((len(ROWS),), -1, dtype=torch.int32, device=DEVICE)
        self.positions = torch.tensor(POSITIONS, device=DEVICE)
        out = torch.zeros(len(ROWS), KV * GROUP * DIM, device=DEVICE, dtype=dtype)
        # It must live as long as the recording, which knows addresses only.
        self.scratch = Scratch.on(DEVICE, *scratch_sizes(len(ROWS), KV * GROUP, DIM, cut.splits))
        self._run = recorded(
            lambda: backend.decode(
                self.qkv, self.keys, self.values, self.rows, self.positions, self.cos, self.sin, out,
                cut=cut, scratch=self.scratch, early=False,
            )
        )  # fmt: skip

    def check(self, rows: list[int], positions: list[int]) -> Tensor:
        """Runs new tokens of `rows` and holds the result and both caches against the reference; -> the result."""
        self.rows.copy_(torch.tensor(rows))
        self.positions.copy_(torch.tensor(positions))
        keys, values = self.keys.clone(), self.values.clone()
        expected = attend_reference(self.qkv, keys, values, self.rows, self.positions, self.cos, self.sin)
        actual = self._run()
        live = self.rows >= 0
        if live.any():
            assert_equal(actual[live], expected[live])
        assert actual.isfinite().all()
        assert_equal(self.keys, keys)
        # What no stream stands at keeps its bits.
        for slot, at in enumerate(positions):
            kept = torch.arange(CONTEXT, device=DEVICE) != (at if slot in rows else -1)
            assert torch.equal(self.keys[slot, :, kept], keys[slot, :, kept])
        assert torch.equal(self.values, values)
        return actual


def recorded(action: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A graph of `action` on a GPU, else `action`."""
    if DEVICE.type == "cpu":
        return action
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        action()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        result = action()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "dtype"), BACKENDS)
@pytest.mark.parametrize("splits", [1, 4])
def test_decoding(kind: type[AttentionBackend], dtype: torch.dtype, splits: int) -> None:
    step = Step(made(kind), dtype, Attention(splits, block=64))
    step.check(ROWS, POSITIONS)
    # The same recording, with other streams at other places: all of it is read on the device.
    step.qkv.copy_(randn(*step.qkv.shape))
    step.check([3, 1, -1, -1], [0, 127, 0, 128, 0])


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "dtype"), BACKENDS)
def test_rows_without_a_stream_touch_nothing(kind: type[AttentionBackend], dtype: torch.dtype) -> None:
    step = Step(made(kind), dtype, Attention(splits=2))
    before = step.keys.clone(), step.values.clone()
    step.check([-1] * len(ROWS), POSITIONS)
    assert torch.equal(step.keys, before[0])
    assert torch.equal(step.values, before[1])


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "dtype"), BACKENDS)
@pytest.mark.parametrize("count", [1, 33, 130])
def test_prompts(kind: type[AttentionBackend], dtype: torch.dtype, count: int) -> None:
    backend, heads = made(kind), GROUP + 2
    qkv = randn(2, count, KV * heads, DIM, dtype=dtype)
    q, k, v = qkv.transpose(1, 2).split((KV * GROUP, KV, KV), dim=1)
    wide_k, wide_v = (t.float().repeat_interleave(GROUP, 1) for t in (k, v))
    scores = q.float() @ wide_k.mT / DIM**0.5
    hidden = torch.ones(count, count, dtype=torch.bool, device=DEVICE).triu(1)
    expected = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ wide_v
    actual = backend.prefill(q, k, v)
    assert actual.shape == (2, count, KV * GROUP * DIM)
    assert_equal(actual, expected.transpose(1, 2).flatten(2))


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "dtype"), BACKENDS)
def test_what_pads_a_prompt_is_not_seen(kind: type[AttentionBackend], dtype: torch.dtype) -> None:
    backend, length = made(kind), 20
    q, k, v = (randn(2, heads, 33, DIM, dtype=dtype) for heads in (KV * GROUP, KV, KV))
    before = backend.prefill(q, k, v)[:, :length]
    for t in (q, k, v):
        t[:, :, length:] = 7.0
    assert torch.equal(backend.prefill(q, k, v)[:, :length], before)


@torch.inference_mode()
@pytest.mark.parametrize("kind", [TritonAttention, SdpaAttention])
def test_a_step_of_the_whole_model(llama_folder: Callable[[TinyLlama], Path], kind: type[AttentionBackend]) -> None:
    loaded = load(llama_folder(TinyLlama(rope=LLAMA3_ROPE, hidden=96, heads=6, kv_heads=2, seed=2)))
    shape, layout = loaded.checkpoint.shape, loaded.checkpoint.layout
    weights = load_weights(loaded.folder, shape, layout, DEVICE, torch.float32)
    folded = load_weights(loaded.folder, shape, layout, DEVICE, torch.float32)
    folded.fold_norms()
    plain = TorchLlama(shape, weights, layout, 4, CONTEXT)
    for slot in range(3):
        ids = loaded.ids("and " * slot)
        plain.prefill(slot, ids[:-1])
        plain.state.start(slot, ids[-1], len(ids) - 1, sampling())
    keys, values = plain.keys.clone(), plain.values.clone()
    plans = (Plan(4, None, Attention(splits=2, block=16)),)
    step = FusedStep(shape, folded, keys, values, plain.cos, plain.sin, plain.state, 4, False, plans, kind())
    step.rows[:3] = torch.tensor([2, 0, 1])
    step.enter(4)
    logits = step.run(4, 0)[:3]
    rows = step.rows[:3].long()
    hidden = plain.step(plain.state.token[rows], rows, plain.state.position[rows], CONTEXT)
    assert_equal(logits, hidden @ weights.head[0].T)
    torch.testing.assert_close(keys, plain.keys, atol=1e-4, rtol=0)
    torch.testing.assert_close(values, plain.values, atol=1e-4, rtol=0)


# ---- the choice


def cache(dtype: torch.dtype = torch.float32, dim: int = DIM) -> Tensor:
    return torch.zeros(1, 1, 1, 1, dim, dtype=dtype, device=DEVICE)


@pytest.mark.parametrize(("asked", "name"), [("auto", "triton"), ("triton", "triton"), ("sdpa", "sdpa")])
def test_a_backend_is_taken_by_its_name(asked: str, name: str) -> None:
    assert attention_backend(asked, cache(), torch.float32, invariant=False).name == name


@pytest.mark.parametrize(
    ("asked", "keys", "dtype", "invariant", "reason"),
    [
        ("flash", cache(), torch.float32, False, "no float32"),
        ("flash", cache(torch.bfloat16, 512), torch.bfloat16, False, "heads of 512"),
        ("flash", cache(torch.float8_e4m3fn), torch.bfloat16, False, "float8_e4m3fn"),
        ("sdpa", cache(torch.float8_e4m3fn), torch.bfloat16, False, "float8_e4m3fn"),
        ("sdpa", cache(), torch.float32, True, "batch_invariant"),
    ],
)
def test_what_a_backend_cannot_do_is_said(
    asked: str, keys: Tensor, dtype: torch.dtype, invariant: bool, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        attention_backend(asked, keys, dtype, invariant)
    assert caught.value.field == "attention"


def test_how_flash_attn_is_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # type: ignore[arg-type]  # its import fails
    with pytest.raises(ConfigError, match=r"pip install 'lyre\[flash-attn\]'") as caught:
        FlashAttention()
    assert caught.value.field == "attention"
