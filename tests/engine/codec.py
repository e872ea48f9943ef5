"""Decoding with snac itself and with the engine's decoders: what the audio tests compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from snac import SNAC
from snac.layers import NoiseBlock
from torch import Tensor

from engine.model.gpu_codec import Decoder
from engine.model.native_snac import NativeSnac
from engine.model.rng import keyed_bits, keyed_normal
from engine.model.snac import NO_END, TorchSnac
from engine.model.snac_layers import codebook_tables, snac_layers
from engine.prompt import codebooks
from engine.windows import flush_frames, window
from tests.tiny import build_snac

CPU = torch.device("cpu")

Build = Callable[..., Decoder]


class Codec:
    """One codec: snac's own model, and ways to build the decoders from its weights."""

    def __init__(self, decoder_dim: int, cache: Path) -> None:
        self.reference: SNAC = build_snac(decoder_dim)
        # The engine folds the weight norm away in place: it gets a model of its own.
        mine = build_snac(decoder_dim)
        self.tables, self.layers = codebook_tables(mine), snac_layers(mine, "tiny")
        self._cache = cache

    def plain(self, slots: int = 1, noise: bool = True) -> TorchSnac:
        return TorchSnac(self.layers, self.tables, slots, CPU, torch.float32, noise=noise)

    def native(self, slots: int = 1, noise: bool = True, threads: int = 1) -> NativeSnac:
        return NativeSnac(self.layers, self.tables, slots, self._cache, threads=threads, noise=noise)

    def whole(self, codes: Tensor, seed: int | None) -> Tensor:
        """snac's decode of a whole utterance [frames, 7]."""
        return whole_decode(self.reference, codes, seed)


@torch.inference_mode()
def whole_decode(model: SNAC, codes: Tensor, seed: int | None) -> Tensor:
    """snac's decode of a whole utterance [frames, 7], with the engine's noise for a seed or without any."""
    with replaced_noise(model, seed):
        return model.decode([torch.tensor([book]) for book in codebooks(codes.tolist())])[0, 0]


@contextmanager
def replaced_noise(model: SNAC, seed: int | None) -> Iterator[None]:
    """snac's noise blocks take what the engine's generator gives for (seed, block, position), not torch.randn."""

    def forward(block: NoiseBlock, number: int, x: Tensor) -> Tensor:
        if seed is None:
            return x
        key = keyed_bits(torch.tensor(seed), torch.tensor(number))
        return x + keyed_normal(key, torch.arange(x.shape[-1])) * block.linear(x)

    blocks = [module for module in model.decoder.modules() if isinstance(module, NoiseBlock)]
    for number, block in enumerate(blocks):
        block.forward = partial(forward, block, number)
    yield
    for block in blocks:
        del block.forward


def stream(decoder: Decoder, codes: Tensor, cuts: list[int], seed: int = 0, slot: int = 0) -> Tensor:
    """The decoder's audio of an utterance pushed in pieces, then flushed."""
    decoder.reset(slot)
    pieces, start = [], 0
    for count in cuts:
        pushed = codes[start : start + count]
        samples = decoder.decode([slot], pushed[None], [start], [NO_END], [seed])[0]
        kept = window(start, count, decoder.lag)
        pieces.append(samples[kept.skip : kept.skip + kept.keep])
        start += count
    count = flush_frames(decoder.lag)
    samples = decoder.decode(
        [slot], torch.zeros(1, count, 7, dtype=torch.int32, device=codes.device), [start], [start], [seed]
    )[0]
    kept = window(start, count, decoder.lag, total=start)
    return torch.cat([*pieces, samples[kept.skip : kept.skip + kept.keep]])
