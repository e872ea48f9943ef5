"""The codec's decoder in Triton kernels against snac's whole decode, and which decoder a GPU gets.

On the GPU where there is one; under Triton's interpreter only what takes seconds there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from engine.errors import ConfigError
from engine.model.gpu_codec import gpu_codec, signal_to_error
from engine.model.snac import NO_END, TorchSnac
from engine.model.snac_launches import supports
from engine.model.triton_snac import MAX_FRAMES, TritonSnac
from engine.windows import SAMPLES_PER_FRAME, window
from tests.engine.codec import Codec, stream

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")


@pytest.fixture(autouse=True)
def _float32_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's own convolutions in float32, not TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def codec(kernel_cache: Path) -> Codec:
    """The smallest whose channels fill the tensor cores' tiles."""
    return Codec(256, kernel_cache)


@pytest.fixture(scope="module")
def build(codec: Codec) -> Callable[..., TritonSnac]:
    """`build(slots)` on the device that the tests run on."""

    def made(slots: int = 1, dtype: torch.dtype = torch.float32, noise: bool = True) -> TritonSnac:
        return TritonSnac(codec.layers, codec.tables, slots, DEVICE, dtype, noise=noise)

    return made


def random_codes(frames: int, seed: int = 0) -> Tensor:
    return torch.randint(4096, (frames, 7), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def noise_ratio(heard: Tensor, expected: Tensor) -> float:
    """Decibels."""
    error = (heard.double().cpu() - expected.double()).square().sum()
    return float(10 * torch.log10(expected.double().square().sum() / error))


def test_one_frame_equals_the_whole_decode(codec: Codec, build: Callable[..., TritonSnac]) -> None:
    decoder, codes = build(slots=2), random_codes(1)
    decoder.warm_up()
    heard = stream(decoder, codes.to(DEVICE), [1], seed=-5, slot=1)
    expected = codec.whole(codes, seed=-5)
    assert heard.shape == expected.shape == (SAMPLES_PER_FRAME,)
    assert float(expected.std()) > 0.1
    assert noise_ratio(heard, expected) >= 100


def test_pcm_is_the_samples_rounded(build: Callable[..., TritonSnac]) -> None:
    decoder = build()
    arguments: Any = ([0], random_codes(1)[None].to(DEVICE), [0], [NO_END], [3])
    samples = decoder.decode(*arguments).cpu()
    pcm = torch.from_numpy(decoder.begin(*arguments).pcm())
    assert pcm.dtype == torch.int16
    assert torch.equal(pcm, (samples * 32767).round().to(torch.int16))


def test_a_small_codec_is_not_supported(codec: Codec, kernel_cache: Path) -> None:
    assert supports(codec.layers)
    assert not supports(Codec(64, kernel_cache).layers)


def test_a_codec_that_the_kernels_cannot_run_runs_in_torch(kernel_cache: Path) -> None:
    small = Codec(64, kernel_cache)
    for asked in ("auto", "float32"):
        assert isinstance(gpu_codec(small.layers, small.tables, 1, DEVICE, asked), TorchSnac)
    with pytest.raises(ConfigError, match="codec_dtype"):
        gpu_codec(small.layers, small.tables, 1, DEVICE, "float16")


def test_the_error_is_measured_against_the_sound(kernel_cache: Path) -> None:
    small = Codec(16, kernel_cache)

    class Louder(TorchSnac):
        """Every sample is off by one part in a hundred: 40 dB."""

        def decode(self, *arguments: Any) -> Tensor:
            return super().decode(*arguments) * 1.01

    class Broken(TorchSnac):
        """As an overflow leaves it."""

        def decode(self, *arguments: Any) -> Tensor:
            return super().decode(*arguments) * torch.nan

    exact, louder, broken = (
        kind(small.layers, small.tables, 1, DEVICE, torch.float32) for kind in (TorchSnac, Louder, Broken)
    )
    assert signal_to_error(louder, exact, DEVICE) == pytest.approx(40, abs=0.1)
    exact.reset(0)
    assert signal_to_error(broken, exact, DEVICE) == -torch.inf


def test_an_utterance_has_an_end(build: Callable[..., TritonSnac]) -> None:
    with pytest.raises(ValueError, match="frames"):
        build().decode([0], random_codes(1)[None].to(DEVICE), [MAX_FRAMES], [NO_END], [0])


gpu = [pytest.mark.gpu, pytest.mark.skipif(not ON_GPU, reason="no CUDA device")]


class TestOnGpu:
    """What takes too long under the interpreter."""

    pytestmark = gpu

    @pytest.mark.parametrize("noise", [True, False], ids=["noise", "quiet"])
    @pytest.mark.parametrize("cuts", [[11], [1] * 11, [3, 1, 7]], ids=str)
    def test_every_cut_equals_the_whole_decode(
        self, codec: Codec, build: Callable[..., TritonSnac], cuts: list[int], noise: bool
    ) -> None:
        codes = random_codes(11)
        heard = stream(build(3, noise=noise), codes.to(DEVICE), cuts, seed=9, slot=2)
        assert noise_ratio(heard, codec.whole(codes, seed=9 if noise else None)) >= 100

    # This small codec's snakes are steeper than SNAC-24k's random ones: a few decibels less than docs/performance.md.
    @pytest.mark.parametrize(("dtype", "decibels"), [(torch.float16, 54), (torch.bfloat16, 36)], ids=str)
    def test_half_precision(
        self, codec: Codec, build: Callable[..., TritonSnac], dtype: torch.dtype, decibels: float
    ) -> None:
        codes = random_codes(20)
        heard = stream(build(dtype=dtype), codes.to(DEVICE), [1] * 20, seed=1)
        assert noise_ratio(heard, codec.whole(codes, seed=1)) >= decibels

    @pytest.mark.parametrize("asked", ["auto", "float32", "float16"])
    def test_a_decoder_is_chosen_and_warm(self, codec: Codec, asked: str) -> None:
        decoder = gpu_codec(codec.layers, codec.tables, 3, DEVICE, asked)
        assert isinstance(decoder, TritonSnac)
        assert decoder.dtype == getattr(torch, "float16" if asked == "auto" else asked)
        codes = random_codes(6)
        heard = stream(decoder, codes.to(DEVICE), [1] * 6, seed=1, slot=2)
        assert noise_ratio(heard, codec.whole(codes, seed=1)) >= 40

    def test_a_codec_too_loud_for_float16_is_decoded_in_float32(self, kernel_cache: Path) -> None:
        loud = Codec(256, kernel_cache)
        _, pointwise, first, *_ = loud.layers
        pointwise.matrix, pointwise.bias = pointwise.matrix * 1e6, pointwise.bias * 1e6
        first.alpha, first.matrix = first.alpha * 1e-6, first.matrix * 1e-6
        decoder = gpu_codec(loud.layers, loud.tables, 1, DEVICE, "auto")
        assert isinstance(decoder, TritonSnac)
        assert decoder.dtype == torch.float32
        with pytest.raises(ConfigError, match="codec_dtype"):
            gpu_codec(loud.layers, loud.tables, 1, DEVICE, "float16")

    def test_the_first_launch_waits_for_what_made_its_inputs(
        self, build: Callable[..., TritonSnac], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decoder, launch = build(), TritonSnac._launch
        made, began = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def noted(self: TritonSnac, *arguments: Any) -> None:
            if not torch.cuda.is_current_stream_capturing():
                began.record()
            launch(self, *arguments)

        monkeypatch.setattr(TritonSnac, "_launch", noted)
        # Long work where a new decoder's places are filled, which the kernels take for slots.
        torch.cuda._sleep(10**8)
        made.record()
        decoder.graph(1)
        assert made.elapsed_time(began) >= 0

    def test_a_slot_that_an_utterance_left_is_clean(self, build: Callable[..., TritonSnac]) -> None:
        codes, decoder = random_codes(5).to(DEVICE), build()
        expected = stream(decoder, codes, [1] * 5, seed=3)
        for left_after in (1, 2, 3, 7):
            for at in range(left_after):
                decoder.decode([0], random_codes(1, seed=at)[None].to(DEVICE), [at], [NO_END], [9])
            assert torch.equal(stream(decoder, codes, [1] * 5, seed=3), expected)

    @pytest.mark.parametrize("count", [2, 5, 16, 37])
    def test_rows_of_a_batch_equal_the_rows_alone(self, build: Callable[..., TritonSnac], count: int) -> None:
        codes = torch.stack([random_codes(4, seed=row) for row in range(count)]).to(DEVICE)
        decoder = build(count + 3)
        slots = torch.randperm(count + 3, generator=torch.Generator().manual_seed(count)).tolist()[:count]
        together = torch.cat(
            [
                decoder.decode(slots, codes[:, at : at + 1], [at] * count, [NO_END] * count, list(range(count)))
                for at in range(4)
            ],
            dim=1,
        )
        kept = window(0, 4, decoder.lag)
        alone = build()
        for row in range(count):
            expected = stream(alone, codes[row], [1] * 4, seed=row)[: kept.keep]
            torch.testing.assert_close(together[row, kept.skip :], expected, atol=1e-5, rtol=0)

    def test_pcm_beside_other_work_is_the_samples(self, build: Callable[..., TritonSnac]) -> None:
        decoder, plain = build(4), build(4)
        work = torch.randn(2048, 2048, device=DEVICE)
        for at in range(6):
            codes = torch.stack([random_codes(1, seed=10 * at + row) for row in range(3)]).to(DEVICE)
            arguments: Any = ([2, 0, 3], codes, [at] * 3, [NO_END] * 3, [1, 2, 3])
            pending = decoder.begin(*arguments)
            codes = codes + 1  # the caller's buffer goes back to the allocator while the codec may still read it
            for _ in range(20):
                work = work @ work / 50
            expected = (plain.decode(*arguments) * 32767).round().to(torch.int16)
            # The kernel scales and rounds in one step, torch in two: halves may fall to either side.
            apart = (torch.from_numpy(pending.pcm()).int() - expected.cpu().int()).abs()
            assert apart.max() <= 1
            assert apart.float().mean() < 1e-3
