"""Streaming SNAC decode on one CPU core through kernels/snac.c: the same interface and results as TorchSnac."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from engine.model.kernels.build import load
from engine.model.native import PACK, pack
from engine.model.snac import lag_of
from engine.model.snac_layers import LATENTS_PER_FRAME, TAPS, Kind, SnacLayer
from engine.windows import SAMPLES_PER_FRAME

_TENSORS = ("alpha", "alpha_inverse", "taps", "taps_bias", "mid_alpha", "mid_alpha_inverse", "matrix", "bias")


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("kind", "channels_in", "channels_out", "factor")),
        *((name, ctypes.c_void_p) for name in _TENSORS),
        ("state", ctypes.c_int64),
    ]


class _Decoder(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("layers", "latent", "widest", "slots")),
        ("slot_floats", ctypes.c_int64),
        ("tables", ctypes.c_void_p * 3),
        ("layer", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
    ]


class NativeSnac:
    """fp32; a batch's rows are shared out over `threads`. `noise=False` leaves the noise blocks out (parity tests)."""

    name = "native"

    def __init__(
        self,
        layers: list[SnacLayer],
        tables: list[Tensor],
        slots: int,
        cache: Path,
        threads: int = 1,
        noise: bool = True,
    ) -> None:
        layers = [layer for layer in layers if noise or layer.kind != Kind.NOISE]
        self.lag = lag_of(layers)
        self._library = load(cache)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="snac")
        self._tables = [table.float().contiguous() for table in tables]
        self._packed = [_packed(layer) for layer in layers]
        starts, floats = _state_layout(layers)
        self._state = torch.zeros(slots, floats)
        self._layers = (_Layer * len(layers))(
            *(
                _Layer(
                    layer.kind, layer.channels_in, layer.channels_out, layer.factor,
                    **{name: tensor.data_ptr() for name, tensor in tensors.items()}, state=start,
                )
                for layer, tensors, start in zip(layers, self._packed, starts, strict=True)
            )
        )  # fmt: skip
        self._decoder = _Decoder(
            layers=len(layers),
            latent=self._tables[0].shape[1],
            widest=_widest(layers),
            slots=slots,
            slot_floats=floats,
            tables=(ctypes.c_void_p * 3)(*(table.data_ptr() for table in self._tables)),
            layer=ctypes.addressof(self._layers),
            state=self._state.data_ptr(),
        )

    def reset(self, slot: int) -> None:
        """A new utterance begins in this slot."""
        self._state[slot] = 0

    def decode(self, slots: list[int], codes: Tensor, start: list[int], total: list[int], seeds: list[int]) -> Tensor:
        """Pushes codes int [B, frames, 7] that follow `start` earlier frames; -> float32 [B, frames * 2048].

        ValueError for a code outside of the codebook, IndexError for a slot that does not exist.
        """
        codes = codes.to(torch.int32).contiguous()
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self._tables[0].shape[0]:
            raise ValueError("a code lies outside of the codebook")
        # The kernel trusts its caller; a wrong index there would be a write into foreign memory.
        if not all(0 <= slot < self._state.shape[0] for slot in slots) or len(set(slots)) < len(slots):
            raise IndexError(f"{slots} are not different slots of {self._state.shape[0]}")
        frames = codes.shape[1]
        samples = torch.empty(len(slots), frames * SAMPLES_PER_FRAME)

        def push(row: int) -> int:
            # ctypes lets go of the interpreter lock during the call.
            return self._library.lyre_snac(
                ctypes.byref(self._decoder), ctypes.c_int64(slots[row]), ctypes.c_void_p(codes[row].data_ptr()),
                ctypes.c_int64(frames), ctypes.c_int64(start[row] * LATENTS_PER_FRAME),
                ctypes.c_int64(total[row] * LATENTS_PER_FRAME), ctypes.c_uint64(seeds[row] % 2**64),
                ctypes.c_void_p(samples[row].data_ptr()),
            )  # fmt: skip

        rows = range(len(slots))
        if any(list(self._threads.map(push, rows) if len(slots) > 1 else map(push, rows))):
            raise MemoryError("lyre_snac: no memory for the scratch buffers")
        return samples


def supports(layers: list[SnacLayer]) -> bool:
    """Whether the kernel's vector widths divide this codec's channels."""
    outputs = [layer.channels_out * (layer.factor if layer.kind == Kind.UPSAMPLE else 1) for layer in layers]
    matrices = [n for layer, n in zip(layers, outputs, strict=True) if layer.kind not in (Kind.OUTPUT, Kind.DEPTHWISE)]
    return all(n % PACK == 0 for n in matrices) and all(layer.channels_in % 8 == 0 for layer in layers)


def _packed(layer: SnacLayer) -> dict[str, Tensor]:
    repeats = layer.factor if layer.kind == Kind.UPSAMPLE else 1
    tensors = {
        "alpha": layer.alpha,
        "alpha_inverse": _inverse(layer.alpha),
        "taps": None if layer.taps is None else layer.taps[:, 0].T,
        "taps_bias": layer.taps_bias,
        "mid_alpha": layer.mid_alpha,
        "mid_alpha_inverse": _inverse(layer.mid_alpha),
        "matrix": _matrix(layer),
        "bias": None if layer.bias is None else layer.bias.repeat(repeats),
    }
    return {name: tensor.float().contiguous() for name, tensor in tensors.items() if tensor is not None}


def _inverse(alpha: Tensor | None) -> Tensor | None:
    return None if alpha is None else (alpha.float() + 1e-9).reciprocal()


def _matrix(layer: SnacLayer) -> Tensor | None:
    if layer.matrix is None:
        return None
    weight, stride = layer.matrix.float(), layer.factor
    if layer.kind == Kind.UPSAMPLE:
        # [in, out, 2 stride] -> [stride * out, 2 in]: an output step sees the previous input and the current one.
        previous, current = weight[..., stride:], weight[..., :stride]
        return pack(torch.cat([previous, current]).permute(2, 1, 0).flatten(0, 1))
    if layer.kind == Kind.OUTPUT:
        return weight[0].T
    return pack(weight[..., 0])


def _state_layout(layers: list[SnacLayer]) -> tuple[list[int], int]:
    """Where each layer's state begins in a slot, and the floats of a slot."""
    rows = {Kind.DEPTHWISE: TAPS - 1, Kind.OUTPUT: TAPS - 1, Kind.UPSAMPLE: 1}
    starts, end = [], 0
    for layer in layers:
        starts.append(end)
        kept = 9 * layer.factor if layer.kind == Kind.RESIDUAL else rows.get(layer.kind, 0)
        end += kept * layer.channels_in
    return starts, end


def _widest(layers: list[SnacLayer]) -> int:
    """Most floats that any layer puts out for one latent, and enough for any layer's history (the kernel's scratch)."""
    rate, widest = 1, 0
    for layer in layers:
        rate *= layer.factor if layer.kind == Kind.UPSAMPLE else 1
        history = (
            (TAPS - 1) * layer.factor * layer.channels_in if layer.kind == Kind.RESIDUAL else TAPS * layer.channels_in
        )
        widest = max(widest, rate * max(layer.channels_out, layer.channels_in), history)
    return widest
