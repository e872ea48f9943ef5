"""The number of slots is bounded by memory, and the error says what fits."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from api.settings import PRESETS
from engine import ConfigError
from engine.model.checkpoint import dummy_checkpoint, dummy_codec
from engine.model.loading import fitting, keep_kernels
from engine.model.memory import RESERVE, ROW, Card, Slot, check_room, codec_bytes, slot_bytes
from engine.model.snac_layers import SnacLayer, snac_layers

GIB = 2**30
CPU = torch.device("cpu")
# As the driver and torch report them; an Orpheus-3B in bf16 with its cut heads, and what a process takes by itself.
WEIGHTS = int(6.4 * GIB)
H100, H200 = (
    Card(name, total, total - WEIGHTS - GIB // 2, WEIGHTS, share=0.9)
    for name, total in (("NVIDIA H100 80GB HBM3", int(79.1 * GIB)), ("NVIDIA H200", int(139.8 * GIB)))
)
CARDS = {"h100": H100, "h200": H200}


@pytest.fixture(scope="module")
def layers() -> list[SnacLayer]:
    return snac_layers(dummy_codec("snac-24khz"), "snac-24khz")


def orpheus(context: int, layers: list[SnacLayer], dtype: torch.dtype = torch.bfloat16) -> Slot:
    shape = dummy_checkpoint("orpheus-3b").shape
    return Slot(slot_bytes(shape, 1, dtype), context, codec_bytes(layers, torch.float32))


def test_a_token_of_the_real_model_takes_114688_bytes() -> None:
    shape = dummy_checkpoint("orpheus-3b").shape
    assert slot_bytes(shape, 1, torch.bfloat16) == 114_688
    assert slot_bytes(shape, 2560, torch.float8_e4m3fn) == 2560 * 57_344


def test_the_codecs_state_is_counted_as_it_is_made(layers: list[SnacLayer]) -> None:
    pytest.importorskip("triton")
    from engine.model.snac_launches import make_rings

    for dtype in (torch.float16, torch.float32):
        rings = make_rings(layers, 1, CPU, dtype)
        made = sum(tensor.nbytes for ring in rings for tensor in (ring.snaked, ring.plain) if tensor is not None)
        assert made == codec_bytes(layers, dtype)
    assert codec_bytes(layers, torch.float16) == 5_144_576


def test_what_fits_is_taken_and_one_more_is_refused() -> None:
    slot = Slot(token=2**20, context=256, codec=2**24)
    card = Card("a card", 80 * GIB, 70 * GIB, 8 * GIB, share=0.75)
    room = 60 * GIB - 10 * GIB - RESERVE
    fit = room // (256 * 2**20 + 2**24 + ROW)
    assert f"; {fit} would fit" in check_room(fit, slot, card)
    with pytest.raises(ConfigError, match=rf"max_concurrency: {fit + 1} streams .* {fit} streams fit"):
        check_room(fit + 1, slot, card)


def test_the_number_of_streams_on_an_h100_and_an_h200(layers: list[SnacLayer]) -> None:
    slot = orpheus(2560, layers)
    for card, fit in ((H100, 219), (H200, 411)):
        assert check_room(16, slot, card).endswith(f"; {fit} would fit")
        with pytest.raises(
            ConfigError, match=rf"NVIDIA .* {fit} streams fit: lower max_concurrency to {fit} or max_co"
        ):
            check_room(fit + 1, slot, card)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_their_cards(layers: list[SnacLayer], name: str) -> None:
    sizes = {field: int(value) for field, value in PRESETS[name].items()}
    assert check_room(sizes["max_concurrency"], orpheus(sizes["max_context"], layers), CARDS[name])


def test_what_is_advised_fits(layers: list[SnacLayer]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_room(600, orpheus(2560, layers), H200)
    assert caught.value.field == "max_concurrency"
    advice = re.search(r"max_concurrency to (\d+) or max_context to (\d+), raise memory_share", caught.value.message)
    assert advice
    streams, context = map(int, advice.groups())
    assert check_room(streams, orpheus(2560, layers), H200)
    assert check_room(600, orpheus(context, layers), H200)


def test_a_card_without_room_for_one_stream_says_so(layers: list[SnacLayer]) -> None:
    full = Card("a full card", 80 * GIB, 2 * GIB, WEIGHTS, share=0.9)
    with pytest.raises(ConfigError, match=r"0\.0 are left: .* 0 streams fit: raise memory_share, or free the card"):
        check_room(1, orpheus(2560, layers), full)


def test_a_device_that_runs_full_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GIB // 2, 80 * GIB))
    with pytest.raises(ConfigError, match=r"device: cpu is full \(0\.5 of 80\.0 GiB free\)"), fitting(CPU):
        raise torch.OutOfMemoryError("as CUDA says it")


@pytest.fixture
def no_triton_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is not set, and what a test sets is undone."""
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    monkeypatch.delenv("TRITON_CACHE_DIR")


def test_compiled_kernels_are_kept_in_the_cache(tmp_path: Path, no_triton_cache: None) -> None:
    keep_kernels(tmp_path / "new")
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "new" / "triton")
    assert (tmp_path / "new" / "triton").is_dir()
    # One that is set stays.
    keep_kernels(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_cache_that_cannot_be_is_named(tmp_path: Path, no_triton_cache: None) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cache: .*triton cannot be used"):
        keep_kernels(tmp_path / "file")
