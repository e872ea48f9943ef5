"""The codec's decoder on a GPU: which one, in which arithmetic, and the proof that half precision is good enough.

float16 keeps 10 bits, bfloat16 keeps 7; the tensor cores multiply both at the same speed. So "auto" tries float16 and
keeps it only if its sound on this codec's own weights is within `QUIET_ENOUGH` of float32's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.errors import ConfigError
from engine.model.snac import NO_END, TorchSnac
from engine.model.snac_layers import SnacLayer
from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS
from engine.windows import SAMPLES_PER_FRAME

log = logging.getLogger(__name__)

QUIET_ENOUGH = 40.0  # decibels between the sound and the error
_TRIAL_FRAMES = 12


class Decoder(Protocol):
    """What every decoder of the codec does; see `TorchSnac`."""

    name: str
    lag: int

    def reset(self, slot: int) -> None: ...
    def decode(
        self, slots: list[int], codes: Tensor, start: list[int], total: list[int], seeds: list[int]
    ) -> Tensor: ...


def gpu_codec(
    layers: list[SnacLayer], tables: list[Tensor], slots: int, device: torch.device, asked: str,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Decoder:  # fmt: skip
    """Warm and ready. `asked`: auto, float32, float16 or bfloat16; `progress` is told of each graph of how many.

    ConfigError when a half precision that was asked for cannot be had, or would be heard.
    """
    exact = TorchSnac(layers, tables, 1, device, torch.float32)
    reason = _no_triton(layers)
    if reason is not None:
        if asked not in ("auto", "float32"):
            raise ConfigError("codec_dtype", f"{asked} needs the Triton kernels: {reason}")
        log.warning("the codec runs in plain torch: %s", reason)
        return TorchSnac(layers, tables, slots, device, torch.float32)
    # Here, because Triton is not on every machine.
    from engine.model.triton_snac import TritonSnac

    if asked != "float32":
        dtype = torch.bfloat16 if asked == "bfloat16" else torch.float16
        fast = TritonSnac(layers, tables, slots, device, dtype)
        ratio = signal_to_error(fast, exact, device)
        log.info("the codec in %s: %.1f dB between its sound and its error", dtype, ratio)
        if ratio >= QUIET_ENOUGH:
            fast.warm_up(progress)
            return fast
        if asked != "auto":
            raise ConfigError("codec_dtype", f"{asked} leaves {ratio:.1f} dB between sound and error; use float32")
        del fast
    decoder = TritonSnac(layers, tables, slots, device, torch.float32)
    decoder.warm_up(progress)
    return decoder


def signal_to_error(decoder: Decoder, exact: Decoder, device: torch.device) -> float:
    """Decibels between `exact`'s samples and the difference to them, over a second of random codes in slot 0.

    -inf where a sample is not finite.
    """
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(CODEBOOK_SIZE, (1, _TRIAL_FRAMES, FRAME_TOKENS), generator=generator, dtype=torch.int32)
    arguments: Any = ([0], codes.to(device), [0], [NO_END], [1])
    heard, expected = decoder.decode(*arguments).double(), exact.decode(*arguments).double()
    # Before its look-ahead a decoder puts out what lies before the utterance.
    error = (heard - expected)[:, decoder.lag + 1 :].square().sum()
    sound = expected[:, decoder.lag + 1 : _TRIAL_FRAMES * SAMPLES_PER_FRAME].square().sum()
    ratio = float(10 * torch.log10(sound / error.clamp(min=1e-300)))
    return ratio if ratio == ratio else float("-inf")


def _no_triton(layers: list[SnacLayer]) -> str | None:
    """Why the Triton kernels cannot be used, or None."""
    if find_spec("triton") is None:
        return "triton is not installed"
    from engine.model.snac_launches import supports

    return None if supports(layers) else "the codec's channels do not fill the tensor cores' tiles"
