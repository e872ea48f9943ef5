"""The whole language model in CUDA graphs says the same with each attention backend; so does what chooses one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import ConfigError, EngineConfig
from engine.model.llama import TorchLlama
from engine.model.runner import ModelRunner
from engine.model.weights import LlamaWeights, load_weights
from tests.engine.kernels import DEVICE, prepare
from tests.engine.language import CONTEXT, GREEDY, Loaded, Voice, converse, load, sampling
from tests.tiny import LLAMA3_ROPE, TinyLlama

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device")]
prepare()

from engine.model.graphs import GraphLlama  # noqa: E402

BACKENDS = ["triton", "sdpa", "flash"]


@pytest.fixture(scope="module", autouse=True)
def exact_products() -> None:
    """Float32 products in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture(scope="module")
def loaded(llama_folder: Callable[[TinyLlama], Path]) -> Loaded:
    """With heads of 128, as Orpheus has them, and three queries for each key."""
    return load(llama_folder(TinyLlama(rope=LLAMA3_ROPE, hidden=96, heads=6, kv_heads=2, head_dim=128, seed=2)))


@pytest.fixture(scope="module")
def weights(loaded: Loaded) -> dict[torch.dtype, LlamaWeights]:
    shape, layout = loaded.checkpoint.shape, loaded.checkpoint.layout
    return {
        dtype: load_weights(loaded.folder, shape, layout, DEVICE, dtype) for dtype in (torch.float32, torch.bfloat16)
    }


@pytest.fixture
def build(loaded: Loaded, weights: dict[torch.dtype, LlamaWeights]) -> Callable[..., GraphLlama]:
    """`build(attention, slots, dtype)`; skips without flash-attn."""

    def model(attention: str, slots: int = 1, dtype: torch.dtype = torch.bfloat16, **options: bool) -> GraphLlama:
        if attention == "flash":
            pytest.importorskip("flash_attn", exc_type=ImportError)
        checkpoint = loaded.checkpoint
        return GraphLlama(
            checkpoint.shape, weights[dtype], checkpoint.layout, slots, CONTEXT, attention=attention, **options
        )

    return model


@pytest.fixture
def plain(loaded: Loaded, weights: dict[torch.dtype, LlamaWeights]) -> Callable[..., TorchLlama]:
    """`plain(slots, dtype)`: plain torch on the GPU; in bf16 with norms folded as the graphs have them."""
    checkpoint = loaded.checkpoint
    shape, layout = checkpoint.shape, checkpoint.layout

    def model(slots: int, dtype: torch.dtype) -> TorchLlama:
        stored = dtype == torch.float32
        taken = load_weights(loaded.folder, shape, layout, DEVICE, dtype) if stored else weights[dtype]
        return TorchLlama(shape, taken, layout, slots, CONTEXT)

    return model


def start(model: GraphLlama | TorchLlama, loaded: Loaded, streams: int) -> None:
    for slot in range(streams):
        ids = loaded.ids(f"Number {slot}{' and more' * 5 * slot}.")
        model.prefill(slot, ids[:-1])
        model.state.start(slot, ids[-1], len(ids) - 1, sampling(seed=slot))


@torch.inference_mode()
def first_logits(model: GraphLlama, streams: int, count: int) -> Tensor:
    """Slot 0's logits of the first streams' next frame, in a batch of `count` rows."""
    model.step.rows.fill_(-1)
    model.step.rows[:streams] = torch.arange(streams, dtype=torch.int32, device=DEVICE)
    model.step.enter(count)
    return model.step.run(count, 0)[:streams].clone()


@pytest.mark.parametrize("attention", BACKENDS)
@pytest.mark.parametrize("count", [1, 4, 16, 40, 70])
def test_logits_equal_plain_torch(
    loaded: Loaded, build: Callable[..., GraphLlama], plain: Callable[..., TorchLlama], attention: str, count: int
) -> None:
    streams = min(count, 5)
    model, reference = build(attention, 80), plain(80, torch.bfloat16)
    for each in (model, reference):
        start(each, loaded, streams)
    rows = torch.arange(streams, device=DEVICE)
    hidden = reference.step(reference.state.token[rows], rows, reference.state.position[rows], CONTEXT)
    expected = F.linear(hidden, reference.weights.head[0]).float()
    error = (first_logits(model, streams, count) - expected).norm() / expected.norm()
    assert error < 3e-2


@pytest.mark.parametrize("attention", ["triton", "sdpa"])
def test_greedy_codes_in_float32_equal_plain_torch(
    loaded: Loaded, build: Callable[..., GraphLlama], plain: Callable[..., TorchLlama], attention: str
) -> None:
    ids = loaded.ids("Greedy.")
    assert converse(build(attention, 1, torch.float32), [Voice(ids, GREEDY, frames=30)]) == converse(
        plain(1, torch.float32), [Voice(ids, GREEDY, frames=30)]
    )


@pytest.mark.parametrize("attention", BACKENDS)
def test_greedy_codes_begin_as_in_plain_torch(
    loaded: Loaded, build: Callable[..., GraphLlama], plain: Callable[..., TorchLlama], attention: str
) -> None:
    slots = 24
    said = [
        converse(model, [Voice(loaded.ids(f"Text {i}."), GREEDY, slot=i, frames=2) for i in range(slots)])
        for model in (build(attention, slots), plain(slots, torch.bfloat16))
    ]
    # In bf16 two codes may be as likely; all of a stream differs from there on.
    same = sum(mine[0][0] == theirs[0][0] for mine, theirs in zip(*said, strict=True))
    assert same >= slots - slots // 6


@pytest.mark.parametrize("attention", ["triton", "flash"])
def test_a_stream_is_the_same_alone_and_in_a_batch(
    loaded: Loaded, build: Callable[..., GraphLlama], attention: str
) -> None:
    model = build(attention, 16, invariant=True)
    texts = [loaded.ids(f"Number {i}{' more' * (i % 9)}.") for i in range(16)]
    batch = converse(model, [Voice(ids, sampling(seed=i), slot=i) for i, ids in enumerate(texts)])
    for i in (0, 5, 15):
        assert converse(model, [Voice(texts[i], sampling(seed=i), slot=2)]) == [batch[i]]


def test_the_runner_takes_the_attention_that_is_asked_for(engine_config: Callable[..., EngineConfig]) -> None:
    config = {"device": str(DEVICE), "dtype": "float32"}
    info = ModelRunner(engine_config(**config)).info
    assert (info.kernel, info.attention) == ("triton", "triton")
    info = ModelRunner(engine_config(**config, attention="sdpa")).info
    assert (info.kernel, info.attention) == ("triton", "sdpa")
    with pytest.raises(ConfigError, match="no float32") as caught:
        ModelRunner(engine_config(**config, attention="flash"))
    assert caught.value.field == "attention"
    with pytest.raises(ConfigError, match="gpu_kernel is torch") as caught:
        ModelRunner(engine_config(**config, attention="triton", gpu_kernel="torch"))
    assert caught.value.field == "attention"
