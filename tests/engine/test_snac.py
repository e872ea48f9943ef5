"""Streaming SNAC decode against snac's own whole decode: any length, any cut, any batch, with and without noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from snac import SNAC
from torch import Tensor

from engine.errors import CheckpointError
from engine.model.checkpoint import dummy_codec
from engine.model.native_snac import NativeSnac, supports
from engine.model.snac import NO_END, TorchSnac, lag_of
from engine.model.snac_layers import Kind, codebook_tables, snac_layers
from engine.prompt import codebooks
from engine.windows import SAMPLES_PER_FRAME, flush_frames, window
from tests.engine.codec import CPU, Build, Codec, stream, whole_decode

FULL_SCALE_ERROR = 1e-4
LENGTHS = {"small": range(1, 61), "native": (1, 2, 3, 4, 5, 6, 7, 11, 16, 23, 60)}
QUIET_LENGTHS = {"small": (*range(1, 13), 20, 33, 60), "native": (1, 2, 3, 8, 23)}


@pytest.fixture(scope="module")
def small(kernel_cache: Path) -> Codec:
    """For the torch decoder alone."""
    return Codec(32, kernel_cache)


@pytest.fixture(scope="module")
def large(kernel_cache: Path) -> Codec:
    """For both decoders."""
    return Codec(512, kernel_cache)


@pytest.fixture(scope="module", params=["small", "native"])
def kind(request: pytest.FixtureRequest) -> str:
    """The torch decoder on the small codec, or the CPU kernel on the large one."""
    return request.param


@pytest.fixture(scope="module")
def codec(kind: str, request: pytest.FixtureRequest) -> Codec:
    return request.getfixturevalue("small" if kind == "small" else "large")


@pytest.fixture(scope="module")
def build(kind: str, codec: Codec) -> Build:
    return codec.plain if kind == "small" else codec.native


def random_codes(frames: int, seed: int = 0) -> Tensor:
    codes = torch.randint(4096, (frames, 7), generator=torch.Generator().manual_seed(1000 * frames + seed))
    codes[0, :3] = torch.tensor([0, 4095, 0])
    return codes


def random_cuts(frames: int) -> list[int]:
    """Sizes of pieces of 1 to 9 frames that add up to `frames`."""
    generator = torch.Generator().manual_seed(frames)
    cuts: list[int] = []
    while sum(cuts) < frames:
        cuts.append(min(int(torch.randint(1, 10, (), generator=generator)), frames - sum(cuts)))
    return cuts


def assert_same_audio(streamed: Tensor, whole: Tensor, frames: int) -> None:
    assert streamed.shape == whole.shape == (frames * SAMPLES_PER_FRAME,)
    assert float(whole.std()) > 0.1, "near silence would prove nothing"
    assert float((streamed - whole).abs().max()) <= FULL_SCALE_ERROR


# ---- against snac


def test_every_length_equals_the_whole_decode(kind: str, codec: Codec, build: Build) -> None:
    decoder = build(slots=2)
    for frames in LENGTHS[kind]:
        codes = random_codes(frames)
        streamed = stream(decoder, codes, random_cuts(frames), seed=frames, slot=frames % 2)
        assert_same_audio(streamed, codec.whole(codes, seed=frames), frames)


def test_every_length_equals_the_whole_decode_without_noise(kind: str, codec: Codec, build: Build) -> None:
    decoder = build(noise=False)
    for frames in QUIET_LENGTHS[kind]:
        codes = random_codes(frames)
        assert_same_audio(stream(decoder, codes, random_cuts(frames)), codec.whole(codes, seed=None), frames)


@pytest.mark.parametrize("cuts", [[13], [1] * 13, [12, 1], [1, 12], [2, 3, 1, 7]], ids=str)
def test_every_cut_gives_the_same_audio(codec: Codec, build: Build, cuts: list[int]) -> None:
    codes = random_codes(13)
    assert_same_audio(stream(build(), codes, cuts, seed=-1), codec.whole(codes, seed=-1), frames=13)


def test_the_kernel_equals_torch_on_the_same_codec(large: Codec) -> None:
    codes = random_codes(9)
    for noise in (True, False):
        native = stream(large.native(noise=noise), codes, [4, 1, 4], seed=2**62)
        plain = stream(large.plain(noise=noise), codes, [4, 1, 4], seed=2**62)
        assert_same_audio(native, plain, frames=9)


def test_the_real_shape_on_the_kernel_equals_torch_and_snac(kernel_cache: Path) -> None:
    model, reference = dummy_codec("snac-24khz"), dummy_codec("snac-24khz")
    tables, layers = codebook_tables(model), snac_layers(model, "snac-24khz")
    assert supports(layers)
    codes = random_codes(3)
    native = stream(NativeSnac(layers, tables, 1, kernel_cache), codes, [1, 2], seed=4)
    plain = stream(TorchSnac(layers, tables, 1, CPU, torch.float32), codes, [1, 2], seed=4)
    whole = whole_decode(reference, codes, seed=4)
    assert float((native - whole).abs().max()) <= FULL_SCALE_ERROR
    assert float((plain - whole).abs().max()) <= FULL_SCALE_ERROR


def test_noise_depends_on_the_seed_alone(build: Build) -> None:
    codes = random_codes(6)
    first, again, other = (stream(build(), codes, [1] * 6, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert float((first - other).abs().max()) > 0.05
    assert float((first - stream(build(noise=False), codes, [1] * 6)).abs().max()) > 0.05


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
def test_the_borders_of_the_seeds(codec: Codec, build: Build, seed: int) -> None:
    codes = random_codes(4)
    assert_same_audio(stream(build(), codes, [2, 2], seed=seed), codec.whole(codes, seed=seed), frames=4)


# ---- batches and slots


def test_interleaved_streams_equal_the_same_streams_alone(kind: str, build: Build) -> None:
    lengths, joins, slots = (1, 9, 4, 12, 3), (0, 0, 2, 3, 7), (4, 0, 2, 1, 3)
    codes = [random_codes(frames, seed=i) for i, frames in enumerate(lengths)]
    decoder = build(slots=5)
    heard: list[list[Tensor]] = [[] for _ in lengths]
    for turn in range(16):
        for i, joined in enumerate(joins):
            if turn == joined:
                decoder.reset(slots[i])
        for ending in (False, True):
            # All rows of a call push the same number of frames; they stand at positions of their own.
            rows = [
                i
                for i, frames in enumerate(lengths)
                if (turn - joins[i] == frames if ending else 0 <= turn - joins[i] < frames)
            ]
            if not rows:
                continue
            count = flush_frames(decoder.lag) if ending else 1
            start = [turn - joins[i] for i in rows]
            total = [lengths[i] if ending else NO_END for i in rows]
            pushed = torch.zeros(len(rows), count, 7, dtype=torch.int32)
            if not ending:
                pushed = torch.stack([codes[i][at : at + 1] for i, at in zip(rows, start, strict=True)])
            samples = decoder.decode([slots[i] for i in rows], pushed, start, total, rows)
            for row, i in enumerate(rows):
                kept = window(start[row], count, decoder.lag, lengths[i] if ending else None)
                heard[i].append(samples[row, kept.skip : kept.skip + kept.keep])
    for i, frames in enumerate(lengths):
        alone = stream(build(), codes[i], [1] * frames, seed=i)
        together = torch.cat(heard[i])
        assert together.shape == alone.shape
        if kind == "native":
            assert torch.equal(together, alone)
        else:
            torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("abandoned_after", [1, 2, 3, 7])
def test_an_abandoned_utterance_leaves_no_trace_after_reset(build: Build, abandoned_after: int) -> None:
    codes = random_codes(5)
    decoder = build(slots=2)
    expected = stream(build(slots=2), codes, [1] * 5, slot=1)
    for start in range(abandoned_after):
        decoder.decode([1], random_codes(1, seed=start)[None], [start], [NO_END], [9])
    assert torch.equal(stream(decoder, codes, [1] * 5, slot=1), expected)


def test_reset_of_one_slot_leaves_the_others_alone(build: Build) -> None:
    codes = random_codes(4)
    expected = stream(build(), codes, [4], seed=3)
    decoder = build(slots=3)
    pieces = []
    for start in range(4):
        decoder.reset(0)
        decoder.reset(2)
        pieces.append(decoder.decode([1], codes[None, start : start + 1], [start], [NO_END], [3])[0])
    kept = window(0, 4, decoder.lag)
    streamed = torch.cat(pieces)[kept.skip : kept.skip + kept.keep]
    torch.testing.assert_close(streamed, expected[: len(streamed)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_share_out_a_batch_without_changing_it(large: Codec, threads: int) -> None:
    codes = torch.stack([random_codes(2, seed=i) for i in range(3)])
    heard = []
    for count in (1, threads):
        decoder = large.native(slots=3, threads=count)
        arguments = ([2, 0, 1], codes, [0, 0, 0], [NO_END] * 3, [1, 2, 3])
        heard.append(torch.cat([decoder.decode(*arguments), decoder.decode(*arguments)]))
    assert torch.equal(*heard)


def test_the_kernel_refuses_the_same_slot_twice(large: Codec) -> None:
    codes = torch.stack([random_codes(1)] * 2)
    with pytest.raises(IndexError):
        large.native(slots=2).decode([1, 1], codes, [0, 0], [NO_END] * 2, [0, 0])


# ---- structure


def test_lag_of_the_24_khz_structure(small: Codec, large: Codec) -> None:
    for codec in (small, large):
        assert lag_of(codec.layers) == codec.plain().lag == 4757
        assert lag_of([layer for layer in codec.layers if layer.kind != Kind.NOISE]) == 4757
    assert large.native().lag == 4757


def test_only_codecs_with_wide_layers_fit_the_kernel(small: Codec, large: Codec) -> None:
    assert supports(large.layers)
    assert not supports(small.layers)


def test_tables_are_the_quantiser_s_output(small: Codec) -> None:
    codes = random_codes(2)
    with torch.inference_mode():
        expected = small.reference.quantizer.from_codes([torch.tensor([b]) for b in codebooks(codes.tolist())])
    mine = small.plain()._latents(codes[None])
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("code", [-1, 4096, 2**31 - 1])
def test_the_kernel_refuses_codes_outside_of_the_codebook(large: Codec, code: int) -> None:
    codes = random_codes(1)
    codes[0, 6] = code
    with pytest.raises(ValueError, match="codebook"):
        large.native().decode([0], codes[None], [0], [NO_END], [0])


@pytest.mark.parametrize("slot", [-1, 1, 10**9])
def test_the_kernel_refuses_a_slot_that_does_not_exist(large: Codec, slot: int) -> None:
    with pytest.raises(IndexError):
        large.native().decode([slot], random_codes(1)[None], [0], [NO_END], [0])


STRANGE = {
    "another hop": {"encoder_rates": [2, 4, 8, 4], "decoder_rates": [8, 4, 4, 2]},
    "decoder rates that do not make up the hop": {"decoder_rates": [8, 8, 8, 2]},
    "decoder rates that fall short of the hop": {"decoder_rates": [8, 8, 2, 2]},
    "odd strides": {"encoder_rates": [2, 4, 8, 8], "decoder_rates": [8, 8, 8, 1]},
    "four codebooks": {"vq_strides": [8, 4, 2, 1]},
    "small codebooks": {"codebook_size": 1024},
    "attention": {"attn_window_size": 32},
    "full convolutions": {"depthwise": False},
}


@pytest.mark.parametrize("changes", STRANGE.values(), ids=STRANGE)
def test_a_codec_of_another_structure_is_refused(changes: dict) -> None:
    model = SNAC(
        **{
            "sampling_rate": 24_000, "encoder_dim": 2, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 32,
            "decoder_rates": [8, 8, 4, 2], "attn_window_size": None, "vq_strides": [4, 2, 1], **changes,
        }
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="folder/of/codec"):
        snac_layers(model, "folder/of/codec")
