"""The card's memory is used as it was counted: weights go straight there, and slots and reserve hold what runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from engine import ConfigError, EngineConfig
from engine.model.checkpoint import dummy_codec, open_checkpoint
from engine.model.memory import RESERVE, Slot, codec_bytes, slot_bytes
from engine.model.runner import ModelRunner
from engine.model.snac_layers import snac_layers
from engine.model.weights import HEAD_ROWS, load_weights
from engine.prompt import FRAME_TOKENS
from tests.tiny import TinyLlama

DEVICE = torch.device("cuda")
SLOTS = 64

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """What other tests left in the allocator's hands counts as free."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    yield
    torch.cuda.empty_cache()


def used() -> int:
    """Bytes of the card, by whomever: contexts, kernels and graphs are in it, and other processes."""
    free, total = torch.cuda.mem_get_info(DEVICE)
    return total - free


def test_no_float32_copy_of_the_model_is_made(llama_folder: Callable[[TinyLlama], Path]) -> None:
    folder = llama_folder(TinyLlama(hidden=384, layers=6, heads=3, head_dim=128, intermediate=1024, tied=False, seed=8))
    checkpoint = open_checkpoint(str(folder))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    weights = load_weights(folder, checkpoint.shape, checkpoint.layout, DEVICE, torch.bfloat16)
    kept, peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
    # One tensor at a time in the file's float32.
    assert peak <= kept + 4 * weights.embed.numel() + 2**20
    assert kept < 1.1 * (2 * weights.parameters + weights.head.nbytes)


@pytest.mark.slow
@pytest.mark.timeout(600)  # kernels that no start before has left are compiled
def test_what_runs_takes_no_more_than_was_counted(tmp_path: Path) -> None:
    """An Orpheus-3B of random weights with SNAC-24k, warm: graphs, workspaces, buffers and all."""
    torch.zeros(1, device=DEVICE)
    before, allocated = used(), torch.cuda.memory_reserved()
    # A context and its libraries take less. Whoever else is on the card may come and go meanwhile.
    alone = before - allocated < 2**30
    runner = ModelRunner(
        EngineConfig(model="orpheus-3b", load_format="dummy", device="cuda", max_concurrency=SLOTS, cache=str(tmp_path))
    )
    torch.cuda.empty_cache()
    # The driver's part of it only the whole card shows.
    taken = used() - before if alone else torch.cuda.memory_reserved() - allocated
    shape = runner.checkpoint.shape
    codec = codec_bytes(snac_layers(dummy_codec("snac-24khz"), "snac-24khz"), torch.float32)
    slot = Slot(slot_bytes(shape, 1, torch.bfloat16), runner.context, codec)
    weights = 2 * (runner.info.parameters + FRAME_TOKENS * HEAD_ROWS * shape.hidden)
    assert taken <= weights + SLOTS * slot.total + RESERVE, f"{(taken - weights - SLOTS * slot.total) / 2**30:.2f} GiB"
    # And not half of it either: the count means something.
    assert taken >= weights + SLOTS * slot.keys_and_values


def test_more_slots_than_fit_are_refused_before_they_are_made(engine_config: Callable[..., EngineConfig]) -> None:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with pytest.raises(ConfigError, match=r"max_concurrency: 10000000 streams .* streams fit: lower max_concurrency"):
        ModelRunner(engine_config(device="cuda", max_concurrency=10_000_000))
    assert torch.cuda.max_memory_allocated() - before < 2**30


def test_a_small_share_is_a_small_room(engine_config: Callable[..., EngineConfig]) -> None:
    with pytest.raises(ConfigError, match=r"1% of .* 0 streams fit: raise memory_share, or free the card"):
        ModelRunner(engine_config(device="cuda", memory_share=0.01))
