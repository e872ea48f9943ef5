"""The demo voice's Llama as it is trained: all weights in one flat buffer, documents packed into one row of tokens.

`forward` gives the loss of a packed batch. A code is predicted among its slot's 4,096 codes (slot 0: or end of speech),
because the server samples so; on every eighth row the loss also counts what leaks to the rest of the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

from demo.train.tokenizer import AUDIO, CODES, CONTEXT, END_OF_SPEECH, SLOTS, VOCABULARY

LEAK_STRIDE = 8
STATISTICS = SLOTS + 2  # one loss a slot, end of speech, leak
# Before torch 2.12 the kernel took fewer key than query heads without being told.
GROUPED = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama with tied embeddings."""

    hidden: int = 256
    layers: int = 12
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    mlp: int = 768
    vocabulary: int = VOCABULARY
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    context: int = CONTEXT

    def layout(self) -> dict[str, tuple[int, ...]]:
        """The groups of the flat buffer in order: what AdamW trains first, then the matrices that Muon trains."""
        queries, both = self.heads * self.head_dim, 2 * self.kv_heads * self.head_dim
        return {
            "embed": (self.vocabulary, self.hidden),
            "norms": (2 * self.layers + 1, self.hidden),
            "qkv": (self.layers, queries + both, self.hidden),
            "out": (self.layers, self.hidden, queries),
            "gate_up": (self.layers, 2 * self.mlp, self.hidden),
            "down": (self.layers, self.hidden, self.mlp),
        }

    @property
    def size(self) -> int:
        """How many weights there are."""
        return sum(prod(size) for size in self.layout().values())

    @property
    def adam_size(self) -> int:
        """How many of them, at the buffer's start, are embeddings and norms."""
        return prod(self.layout()["embed"]) + prod(self.layout()["norms"])


def views(flat: Tensor, shape: Shape) -> dict[str, Tensor]:
    """The groups of a flat buffer, by name, sharing its storage."""
    groups, start = {}, 0
    for name, size in shape.layout().items():
        groups[name] = flat[start : start + prod(size)].view(size)
        start += prod(size)
    return groups


def leaves(flat: Tensor, shape: Shape) -> list[Tensor]:
    """The tensors that `forward` takes, as views: embed, final norm, then six a layer in `block`'s order."""
    group = views(flat, shape)
    tensors = [group["embed"], group["norms"][-1]]
    for layer in range(shape.layers):
        tensors += [group["norms"][2 * layer], group["qkv"][layer], group["out"][layer]]
        tensors += [group["norms"][2 * layer + 1], group["gate_up"][layer], group["down"][layer]]
    return tensors


def initialise(flat: Tensor, shape: Shape, seed: int) -> None:
    """Fill a flat fp32 buffer: embeddings 0.02, norms one, matrices by fan-in, residual outputs scaled by depth."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    for name, tensor in views(flat, shape).items():
        if name == "norms":
            tensor.fill_(1.0)
            continue
        std = 0.02 if name == "embed" else tensor.shape[-1] ** -0.5
        if name in ("out", "down"):
            std /= (2 * shape.layers) ** 0.5
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)


class Batch(NamedTuple):
    """Documents packed into `tokens` (T,), and where each slot's codes are predicted.

    `bounds` (documents + 1,) int32 are the documents' edges. `rows` (7, M) are the positions that predict, `targets`
    (7, M) the codes 0..4095 (4,096 in slot 0 for end of speech), `mask` (7, M) 1.0 where there is anything to predict.
    """

    tokens: Tensor
    positions: Tensor
    bounds: Tensor
    rows: Tensor
    targets: Tensor
    mask: Tensor


class Rows(torch.autograd.Function):
    """table[index], with a backward that adds up in fp32, needs no sort and can be captured in a CUDA graph."""

    @staticmethod
    def forward(ctx, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.like = table.shape, table.dtype
        return table[index]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        [index] = ctx.saved_tensors
        size, dtype = ctx.like
        total = torch.zeros(size, dtype=torch.float32, device=grad.device)
        total.index_add_(0, index.flatten(), grad.reshape(-1, size[-1]).float())
        return total.to(dtype), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm, in fp32 inside, rounded where transformers' Llama rounds."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return wide.to(x.dtype) * weight


def rope_table(shape: Shape, device: torch.device) -> Tensor:
    """(context, 2, head_dim / 2) fp32: cosines and sines of every position."""
    steps = torch.arange(0, shape.head_dim, 2, device=device, dtype=torch.float32) / shape.head_dim
    angles = torch.arange(shape.context, device=device, dtype=torch.float32)[:, None] / shape.rope_theta**steps
    return torch.stack((angles.cos(), angles.sin()), dim=1)


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotary embedding of x (T, heads, head_dim) by rope (T, 2, head_dim / 2): Llama's halves, not pairs."""
    cos, sin = rope[:, None, 0], rope[:, None, 1]
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int) -> Tensor:
    """Causal attention within each document: q (T, heads, d), k and v (T, kv_heads, d)."""
    if q.is_cuda:
        return varlen_attn(q, k, v, bounds, bounds, longest, longest, window_size=(-1, 0), **GROUPED)
    place = torch.arange(len(q), device=q.device)
    document = torch.searchsorted(bounds[1:].long(), place, right=True)
    mask = (document[:, None] == document[None]) & (place[:, None] >= place[None])
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return mixed[0].transpose(0, 1)


def make_block(shape: Shape, longest: int, dropout: float) -> Callable[..., Tensor]:
    """One decoder layer as a function of tensors only, so that a single compilation serves all layers."""
    heads, kv, dim, eps = shape.heads, shape.kv_heads, shape.head_dim, shape.norm_eps

    def block(
        x: Tensor,
        rope: Tensor,
        bounds: Tensor,
        norm1: Tensor,
        qkv: Tensor,
        out: Tensor,
        norm2: Tensor,
        gate_up: Tensor,
        down: Tensor,
    ) -> Tensor:
        mixed = functional.linear(rms_norm(x, norm1, eps), qkv).view(-1, heads + 2 * kv, dim)
        q, k, v = mixed.split((heads, kv, kv), dim=1)
        seen = attend(rotate(q, rope), rotate(k, rope), v.contiguous(), bounds, longest)
        x = x + functional.dropout(functional.linear(seen.flatten(1), out), dropout, dropout > 0)
        gate, up = functional.linear(rms_norm(x, norm2, eps), gate_up).chunk(2, dim=-1)
        wide = functional.linear(functional.silu(gate) * up, down)
        return x + functional.dropout(wide, dropout, dropout > 0)

    return block


def make_head(shape: Shape) -> Callable[..., tuple[Tensor, Tensor]]:
    """The loss as a function of tensors only: (loss, statistics (2, STATISTICS) of sums and counts)."""
    eps, hidden = shape.norm_eps, shape.hidden

    def head(picked: Tensor, norm: Tensor, embed: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        picked = rms_norm(picked, norm, eps)
        codes = embed[AUDIO : AUDIO + SLOTS * CODES].view(SLOTS, CODES, hidden)
        logits = torch.bmm(picked, codes.transpose(1, 2)).float()
        # A comparison instead of a gather: its backward is elementwise, where a gather's scatters.
        chosen = targets[..., None] == torch.arange(CODES, device=targets.device)
        of_target = logits.masked_fill(~chosen, 0.0).sum(-1)
        of_codes = torch.logsumexp(logits, -1)
        is_end = (targets == CODES).float()
        end = (picked[0].float() @ embed[END_OF_SPEECH].float())[None]
        legal = torch.cat((torch.logaddexp(of_codes[:1], end), of_codes[1:]))
        lost = (legal - of_target - is_end * end) * mask
        leak, every = _leak(picked, embed, legal, mask)
        sums = torch.cat(((lost * (1 - is_end)).sum(1), (lost * is_end).sum()[None], leak.sum()[None]))
        counts = torch.cat(((mask * (1 - is_end)).sum(1), (mask * is_end).sum()[None], every.sum()[None]))
        loss = lost.sum() / mask.sum().clamp(min=1) + sums[-1] / counts[-1].clamp(min=1)
        return loss, torch.stack((sums, counts)).detach()

    return head


def _leak(picked: Tensor, embed: Tensor, legal: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """-log of the probability that the full vocabulary leaves to the legal tokens, on every eighth row."""
    every = mask[:, ::LEAK_STRIDE]
    full = torch.logsumexp((picked[:, ::LEAK_STRIDE] @ embed.T).float(), -1)
    return (full - legal[:, ::LEAK_STRIDE]) * every, every


class Parts(NamedTuple):
    """The functions `forward` calls: compiled in training, plain in evaluation and tests."""

    block: Callable[..., Tensor]
    head: Callable[..., tuple[Tensor, Tensor]]


def make_parts(shape: Shape, longest: int, dropout: float, compiled: bool) -> Parts:
    """Both parts for documents of at most `longest` tokens."""
    parts = make_block(shape, longest, dropout), make_head(shape)
    return Parts(*(torch.compile(part, dynamic=False, fullgraph=True) if compiled else part for part in parts))


def residual(tensors: list[Tensor], batch: Batch, rope: Tensor, parts: Parts) -> Tensor:
    """The last layer's output (T, hidden), before the final norm."""
    x = Rows.apply(tensors[0], batch.tokens)
    turned = rope[batch.positions]
    for layer in layers(tensors):
        x = parts.block(x, turned, batch.bounds, *layer)
    return x


def layers(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """The six tensors of each layer, out of `leaves`."""
    return (tensors[start : start + 6] for start in range(2, len(tensors), 6))


def forward(tensors: list[Tensor], batch: Batch, rope: Tensor, parts: Parts) -> tuple[Tensor, Tensor]:
    """The loss of a batch, and its statistics."""
    picked = Rows.apply(residual(tensors, batch, rope, parts), batch.rows)
    return parts.head(picked, tensors[1], tensors[0], batch.targets, batch.mask)
