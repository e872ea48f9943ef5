"""The language model in plain torch: prefill and whole-frame decode over static slots. The reference for every kernel.

Keys and values: [layers, slots, kv_heads, context, head_dim]. All rows of a decode batch stand at the same slot of
their frame, so one cut head serves the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.attention import decode_attention, prefill_attention
from engine.model.fp8 import Matrix, plain, saturated
from engine.model.rope import rope_tables
from engine.model.sampler import sample
from engine.model.slots import SlotState
from engine.model.weights import END_ROW, LayerWeights, LlamaShape, LlamaWeights
from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS, TokenLayout


class TorchLlama:
    """Runs on CPU and CUDA; the embedding's dtype is the arithmetic's."""

    name = "torch"
    attention = "sdpa"
    prefill_piece = None  # prompts are short: a whole one is a single pass

    def __init__(
        self, shape: LlamaShape, weights: LlamaWeights, layout: TokenLayout, slots: int, context: int,
        kv_dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        """`kv_dtype`: that of keys and values, the arithmetic's unless it is float8_e4m3fn."""
        self.shape, self.weights, self.layout, self.context = shape, weights, layout, context
        device, dtype = weights.embed.device, weights.embed.dtype
        cache = (shape.layers, slots, shape.kv_heads, context, shape.head_dim)
        self.keys = torch.zeros(cache, dtype=kv_dtype or dtype, device=device)
        self.values = torch.zeros(cache, dtype=kv_dtype or dtype, device=device)
        self.cos, self.sin = rope_tables(shape.rope, shape.head_dim, context, device)
        self.state = SlotState(slots, device)

    @torch.inference_mode()
    def prefill(self, slot: int, ids: list[int]) -> Tensor:
        """Writes a prompt's keys and values into a slot, from position 0; -> normed hidden states [T, hidden]."""
        x = self.weights.embed[torch.tensor(ids, device=self.weights.embed.device)]
        count = len(ids)
        cos, sin = self.cos[:count, None], self.sin[:count, None]
        for i, layer in enumerate(self.weights.layers):
            q, k, v = self._project(layer, x, cos, sin)
            for cache, new in ((self.keys, k), (self.values, v)):
                cache[i, slot, :, :count] = saturated(new, cache.dtype).transpose(0, 1)
            heads = (t.transpose(0, 1)[None] for t in (q, k, v))
            x = self._finish(layer, x, prefill_attention(*heads)[0])
        return self._norm(x, self.weights.norm)

    @torch.inference_mode()
    def step(self, tokens: Tensor, slots: Tensor, positions: Tensor, length: int) -> Tensor:
        """One token a row: writes its key and value; -> normed hidden states [B, hidden]. `length` > any position."""
        x = self.weights.embed[tokens]
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        for i, layer in enumerate(self.weights.layers):
            q, k, v = self._project(layer, x, cos, sin)
            for cache, new in ((self.keys, k), (self.values, v)):
                _put(cache[i], slots, positions, saturated(new, cache.dtype))
            attended = decode_attention(q, self.keys[i], self.values[i], slots, positions, length)
            x = self._finish(layer, x, attended)
        return self._norm(x, self.weights.norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Over the whole vocabulary, float32 [..., vocab], while no norm is folded: for parity with others."""
        return F.linear(hidden, self.weights.lm_head).float()

    @torch.inference_mode()
    def decode_frame(self, slots: list[int], length: int, min_frames: int) -> tuple[Tensor, Tensor]:
        """Seven steps for each slot; -> codes int32 [B, 7] and whether the row ended instead, bool [B].

        `length` bounds every row's position + 7. The codes of a row that ended are undefined.
        """
        state = self.state
        rows = torch.tensor(slots, device=state.token.device)
        codes = torch.zeros(len(slots), FRAME_TOKENS, dtype=torch.int32, device=rows.device)
        ended = torch.zeros(len(slots), dtype=torch.bool, device=rows.device)
        for k in range(FRAME_TOKENS):
            hidden = self.step(state.token[rows], rows, state.position[rows], length)
            drawn = sample(F.linear(hidden, self.weights.head[k]).float(), k, state, rows, min_frames)
            if k == 0:
                ended = drawn == END_ROW
            code = drawn.clamp(max=CODEBOOK_SIZE - 1)
            codes[:, k] = code.int()
            state.last_seen[rows, k, code] = (state.frame[rows] * FRAME_TOKENS + k).int()
            state.token[rows] = self.layout.first_audio + k * CODEBOOK_SIZE + code
            state.position[rows] += 1
        state.frame[rows] += 1
        return codes, ended

    def _project(self, layer: LayerWeights, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.shape
        heads = self._product(self._norm(x, layer.input_norm), layer.qkv).view(
            -1, shape.heads + 2 * shape.kv_heads, shape.head_dim
        )
        turned = _rotate(heads[:, : shape.heads + shape.kv_heads], cos, sin)
        return turned[:, : shape.heads], turned[:, shape.heads :], heads[:, shape.heads + shape.kv_heads :]

    def _finish(self, layer: LayerWeights, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self._product(attended, layer.attn_out)
        gate, up = self._product(self._norm(x, layer.post_norm), layer.gate_up).chunk(2, dim=-1)
        return x + self._product(F.silu(gate) * up, layer.down)

    def _product(self, x: Tensor, matrix: Matrix) -> Tensor:
        return F.linear(x, plain(matrix, x.dtype))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.shape.eps)
        return (x.float() * scale).to(x.dtype) * weight


def _put(cache: Tensor, slots: Tensor, positions: Tensor, new: Tensor) -> None:
    if new.dtype.itemsize == 1:
        # torch does not scatter 8-bit numbers everywhere, but bytes.
        cache, new = cache.view(torch.uint8), new.view(torch.uint8)
    cache[slots, :, positions] = new


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [T, heads, head_dim]; the halves of head_dim are the pairs (transformers' layout)."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
