"""The language model on one CPU core through kernels/decode.c: the same interface and results as TorchLlama.

Measured against torch's operations it removes the cost of some 200 calls a token, which on small models is most of the
time (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import math
import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model.kernels.build import load
from engine.model.rope import rope_tables
from engine.model.slots import SlotState
from engine.model.weights import HEAD_ROWS, LlamaShape, LlamaWeights
from engine.prompt import FRAME_TOKENS, TokenLayout

PACK = 32  # outputs that the kernel computes side by side
_INTS = ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "context", "slots", "bf16", "first_audio")
_POINTERS = ("embed", "norms", "qkv", "attn_out", "gate_up", "down", "head", "cos", "sin", "keys", "values")
_STATE = ("token", "position", "frame", "seed", "temperature", "top_p", "penalty", "top_k", "window", "last_seen")


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in _INTS),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


class _State(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _STATE]


class NativeLlama:
    """Weights as they are stored (bf16 or fp32), arithmetic in fp32; a batch's rows are shared out over `threads`."""

    name = "native"
    attention = "native"
    # Tokens of a prompt that are taken at a time: other streams' frames go in between.
    prefill_piece = 48

    def __init__(
        self, shape: LlamaShape, weights: LlamaWeights, layout: TokenLayout, slots: int, context: int, cache: Path,
        threads: int = 1,
    ) -> None:  # fmt: skip
        self.shape, self.context = shape, context
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="llama")
        self._parts = threads
        self.state = SlotState(slots, torch.device("cpu"))
        kv = (shape.layers, slots, shape.kv_heads, context, shape.head_dim)
        self.keys, self.values = _untouched(kv), _untouched(kv)
        self._library = load(cache)
        self._tensors = _packed(weights, rope_tables(shape.rope, shape.head_dim, context, torch.device("cpu")))
        self._model = self._describe(weights, layout, slots)
        self._state = _State(*(getattr(self.state, name).data_ptr() for name in _STATE))

    def prefill(self, slot: int, ids: list[int], start: int = 0) -> None:
        """Writes the keys and values of a prompt, or of a piece of one, into a slot, from position `start`."""
        self._check(slot, start + len(ids))
        if not 0 <= min(ids, default=0) <= max(ids, default=0) < self.shape.vocab:
            raise IndexError("a token id lies outside of the vocabulary")
        array = (ctypes.c_int64 * len(ids))(*ids)
        sizes = (ctypes.c_int64(len(ids)), ctypes.c_int64(start))
        self._call("lyre_prefill", ctypes.byref(self._model), ctypes.c_int64(slot), array, *sizes)

    def decode_frame(self, slots: list[int], length: int, min_frames: int) -> tuple[Tensor, Tensor]:
        """Seven steps for each slot; -> codes int32 [B, 7] and whether the row ended instead, bool [B]."""
        for slot in slots:
            self._check(slot, int(self.state.position[slot]) + FRAME_TOKENS)
        if len(set(slots)) < len(slots):
            raise IndexError(f"{slots} are not different slots")
        count = len(slots)
        codes = torch.zeros(count, FRAME_TOKENS, dtype=torch.int32)
        ended = torch.zeros(count, dtype=torch.uint8)
        size = max(1, -(-count // self._parts))

        def part(first: int) -> None:
            # ctypes lets go of the interpreter lock during the call; rows share nothing that is written.
            rows = slots[first : first + size]
            array, out, ends = (ctypes.c_int64 * len(rows))(*rows), codes[first:].data_ptr(), ended[first:].data_ptr()
            self._call(
                "lyre_decode_frame", ctypes.byref(self._model), ctypes.byref(self._state), ctypes.c_int64(len(rows)),
                array, ctypes.c_int64(min_frames), ctypes.c_void_p(out), ctypes.c_void_p(ends),
            )  # fmt: skip

        parts = range(0, count, size)
        list(self._threads.map(part, parts) if len(parts) > 1 else map(part, parts))
        return codes, ended.bool()

    def _check(self, slot: int, end: int) -> None:
        # The kernel trusts its caller; a wrong index there would be a write into foreign memory.
        if not 0 <= slot < self.state.token.shape[0]:
            raise IndexError(f"slot {slot} does not exist")
        if end > self.context:
            raise IndexError(f"position {end - 1} lies outside of a slot's {self.context} tokens")

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, name)(*arguments) != 0:
            raise MemoryError(f"{name}: no memory for the scratch buffers")

    def _describe(self, weights: LlamaWeights, layout: TokenLayout, slots: int) -> _Model:
        shape, tensors = self.shape, self._tensors
        model = _Model(
            layers=shape.layers,
            hidden=shape.hidden,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            intermediate=shape.intermediate,
            context=self.context,
            slots=slots,
            bf16=weights.embed.dtype == torch.bfloat16,
            first_audio=layout.first_audio,
            eps=shape.eps,
            keys=self.keys.data_ptr(),
            values=self.values.data_ptr(),
        )
        for name in ("embed", "norms", "head", "cos", "sin"):
            setattr(model, name, tensors[name][0].data_ptr())
        for name in ("qkv", "attn_out", "gate_up", "down"):
            pointers = (ctypes.c_void_p * shape.layers)(*(tensor.data_ptr() for tensor in tensors[name]))
            self._tensors[name + "_pointers"] = pointers
            setattr(model, name, ctypes.addressof(pointers))
        return model


def supports(shape: LlamaShape, weights: LlamaWeights) -> bool:
    """Whether the kernel's vector widths divide this model's dimensions, and its weights are of a kind it reads."""
    rows = (shape.hidden, 2 * shape.intermediate, (shape.heads + 2 * shape.kv_heads) * shape.head_dim)
    whole = shape.head_dim % 8 == 0 and shape.intermediate % 8 == 0 and all(size % PACK == 0 for size in rows)
    return whole and weights.embed.dtype in (torch.float32, torch.bfloat16)


def _untouched(shape: tuple[int, ...]) -> Tensor:
    """Float32 zeros that cost no time and no memory until they are reached.

    torch would write them all; numpy would ask for huge pages, of which a stream's first tokens would touch many.
    """
    pages = mmap.mmap(-1, 4 * math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.float32).view(shape)


def _packed(weights: LlamaWeights, tables: tuple[Tensor, Tensor]) -> dict:
    """Contiguous tensors by the kernel's names; kept alive for as long as the kernel points at them."""
    head = F.pad(weights.head, (0, 0, 0, -HEAD_ROWS % PACK))
    norms = [norm for layer in weights.layers for norm in (layer.input_norm, layer.post_norm)]
    layers = {
        name: [pack(getattr(layer, name)) for layer in weights.layers]
        for name in ("qkv", "attn_out", "gate_up", "down")
    }
    return {
        "embed": [weights.embed.contiguous()],
        "norms": [torch.stack([*norms, weights.norm]).float().contiguous()],
        "head": [torch.stack([pack(slot) for slot in head])],
        "cos": [tables[0]],
        "sin": [tables[1]],
        **layers,
    }


def pack(matrix: Tensor) -> Tensor:
    """[n, k] -> [n / 32, k, 32], the order in which the kernel reads."""
    n, k = matrix.shape
    return matrix.view(n // PACK, PACK, k).transpose(1, 2).contiguous()
