"""Attention on CUDA behind one signature: our own kernels, flash-attn's, or torch's; chosen once, at the start.

All give the same to rounding, run inside a CUDA graph (fixed grids, lengths on the device) and pass over rows of -1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.errors import ConfigError
from engine.model.attention import decode_attention, prefill_attention
from engine.model.kernels import grouped
from engine.model.kernels.attention import attend
from engine.model.kernels.linear import Scratch
from engine.model.kernels.rope_rows import turn_rows

log = logging.getLogger(__name__)

GATHERED_ROWS = 32  # how many rows' caches `SdpaAttention` copies at a time


@dataclass(frozen=True)
class Attention:
    """How attention is cut: `splits` programs share a head's keys, `block` of them at a time.

    `grouped`: by engine.model.kernels.grouped, whose blocks have a size of their own.
    """

    splits: int = 1
    block: int = 64
    warps: int = 4
    stages: int = 2
    policy: str = ""
    grouped: bool = False


class AttentionBackend(Protocol):
    """How the rows of a step and the tokens of a prompt attend."""

    name: str

    def decode(
        self, qkv: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor,
        out: Tensor, *, cut: Attention, scratch: Scratch, early: bool, norms: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Turns the new queries and keys, writes keys and values at their positions and attends up to them.

        qkv [M, (heads + 2 kv_heads) * D], which may be overwritten, of the slots `rows` int32 [M]; -1: no stream,
        nothing is written and what is returned means nothing. keys, values [slots, kv_heads, context, D] of one layer;
        positions [slots]; cos, sin float32 [context, D / 2]. With `norms`, float32 [M], each row of qkv is taken
        times its own. -> [M, heads * D], in `out` or in a tensor of its own.
        All batches with the same `cut` give a row the same bits, but for `sdpa`.
        """
        ...

    def prefill(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention within each of n prompts, already turned; -> [n, T, heads * D].

        query [n, heads, T, D], key and value [n, kv_heads, T, D], any strides but the last. What pads a prompt at its
        end is never seen by what is before it.
        """
        ...


class TritonAttention:
    """Kernels of our own for a step's attention. Prompts, which are few and short, go through torch."""

    name = "triton"
    prefill = staticmethod(prefill_attention)

    def decode(
        self, qkv: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor,
        out: Tensor, *, cut: Attention, scratch: Scratch, early: bool, norms: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        if cut.grouped:
            grouped.attend(
                qkv, keys, values, rows, positions, cos, sin, out, splits=cut.splits, warps=cut.warps,
                stages=cut.stages, norms=norms, early=early,
            )  # fmt: skip
            return out
        attend(
            qkv, keys, values, rows, positions, cos, sin, out, scratch, norms=norms, splits=cut.splits,
            block=cut.block, warps=cut.warps, stages=cut.stages, policy=cut.policy, early=early,
        )  # fmt: skip
        return out


class FlashAttention:
    """flash-attn's kernels, which read the caches where they lie. They know bfloat16 and float16 alone."""

    name = "flash"

    def __init__(self) -> None:
        """ConfigError when flash-attn cannot be imported."""
        self._cached, self._within, self.version = _flash_attn()

    def decode(
        self, qkv: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor,
        out: Tensor, *, cut: Attention, scratch: Scratch, early: bool, norms: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        slots, lengths = turn_rows(qkv, keys, values, rows, positions, cos, sin, norms)
        query = qkv.view(qkv.shape[0], 1, -1, keys.shape[3])[:, :, : out.shape[1] // keys.shape[3]]
        # A row without a stream has no keys: its programs read nothing and put out zeros.
        return self._cached(
            query, keys.transpose(1, 2), values.transpose(1, 2),
            cache_seqlens=lengths, cache_batch_idx=slots, num_splits=cut.splits,
        ).view(out.shape)  # fmt: skip

    def prefill(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended = self._within(*(t.transpose(1, 2) for t in (query, key, value)), causal=True)
        return attended.flatten(2)


class SdpaAttention:
    """torch's own attention over copies of the rows' whole caches: slow, for when the other two cannot run."""

    name = "sdpa"
    prefill = staticmethod(prefill_attention)

    def decode(
        self, qkv: Tensor, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor, cos: Tensor, sin: Tensor,
        out: Tensor, *, cut: Attention, scratch: Scratch, early: bool, norms: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        context, dim = keys.shape[2:]
        slots = turn_rows(qkv, keys, values, rows, positions, cos, sin, norms)[0].long()
        query, at = qkv.view(qkv.shape[0], -1, dim)[:, : out.shape[1] // dim], positions[slots]
        pieces = [
            decode_attention(q, keys, values, some, where, context)
            for q, some, where in zip(*(t.split(GATHERED_ROWS) for t in (query, slots, at)), strict=True)
        ]
        # One piece goes on as it is: a copy of it would be no kernel, and the next kernel is launched early after one.
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def attention_backend(asked: str, keys: Tensor, dtype: torch.dtype, invariant: bool) -> AttentionBackend:
    """The backend that is called `asked` (auto: triton), for arithmetic in `dtype` over a cache like `keys` [..., D].

    `invariant`: a row must have the same bits in any batch. ConfigError when the backend cannot give that, or at all.
    """
    if asked in ("auto", "triton"):
        backend: AttentionBackend = TritonAttention()
        log.info("attention: triton")
        return backend
    if keys.dtype != dtype:
        raise ConfigError(
            "attention", f"{asked} needs keys and values in {_plain(dtype)}, not {_plain(keys.dtype)}; take triton"
        )
    if asked == "sdpa":
        if invariant:
            raise ConfigError("attention", "sdpa may round otherwise in another batch; batch_invariant needs triton")
        log.warning("attention: sdpa, which copies every stream's whole cache in every step and is slow")
        return SdpaAttention()
    return _flash(keys, dtype)


def _flash(keys: Tensor, dtype: torch.dtype) -> FlashAttention:
    if dtype not in (torch.bfloat16, torch.float16):
        raise ConfigError("attention", f"flash-attn has no {_plain(dtype)}; set dtype to bfloat16, or take triton")
    if keys.shape[-1] > 256:
        raise ConfigError("attention", f"flash-attn has no heads of {keys.shape[-1]}; take triton")
    if torch.cuda.get_device_capability(keys.device) < (8, 0):
        raise ConfigError("attention", "flash-attn needs a GPU of compute capability 8.0 or more; take triton")
    flash = FlashAttention()
    log.info("attention: flash-attn %s", flash.version)
    return flash


def _flash_attn() -> tuple[Callable[..., Any], Callable[..., Any], str]:
    try:
        from flash_attn import (  # pyright: ignore[reportMissingImports]
            __version__,
            flash_attn_func,
            flash_attn_with_kvcache,
        )
    except ImportError as error:
        # Also where it is there but was built for another torch.
        raise ConfigError(
            "attention", f"flash-attn cannot be imported ({error}); install it: pip install 'lyre[flash-attn]'"
        ) from None
    return flash_attn_with_kvcache, flash_attn_func, __version__


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
