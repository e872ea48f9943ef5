"""Exact streaming SNAC decode in Triton kernels: the same interface and results as TorchSnac, for CUDA.

A frame of a batch is 23 launches, replayed as one CUDA graph per batch size on a stream of its own: it runs beside the
language model's next frame. A launch reads its rows' places, which were there before the first, then it waits for the
last one's results: beside other work its programs have found room by then. Rows of a batch may stand anywhere; padding
rows have a slot of their own and read nothing. Under Triton's interpreter the same launches run on the CPU.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.model.kernels.chain import launches_early
from engine.model.kernels.columns import Ring
from engine.model.kernels.snac_lookup import CODE_OF_LATENT, lookup
from engine.model.snac import lag_of
from engine.model.snac_launches import Work, launches, make_rings, scratch_columns
from engine.model.snac_layers import SnacLayer
from engine.prompt import FRAME_TOKENS
from engine.windows import SAMPLES_PER_FRAME

# Frames after which positions would no longer fit 32 bits: twelve hours of one utterance.
MAX_FRAMES = 2**19


@dataclass(frozen=True)
class PendingSpeech:
    """A decode that is under way on the device."""

    _pcm: Tensor  # int16 [frames, B, 2048], pinned on CUDA
    _done: torch.cuda.Event | None

    def pcm(self) -> np.ndarray:
        """Waits for the decode; int16 [B, frames * 2048]."""
        if self._done is not None:
            self._done.synchronize()
        return self._pcm.numpy().swapaxes(0, 1).reshape(self._pcm.shape[1], -1)


class TritonSnac:
    """`dtype` float32: matrix products to float32's precision; float16 or bfloat16: storage and products in it.

    An utterance's first call has start 0. Codes must lie within their codebooks: the device does not check.
    """

    name = "triton"

    def __init__(
        self, layers: list[SnacLayer], tables: list[Tensor], slots: int, device: torch.device, dtype: torch.dtype,
        noise: bool = True,
    ) -> None:  # fmt: skip
        self.lag = lag_of(layers)
        self.dtype = dtype
        self._device = device
        self._spare = slots
        self._tables = [table.to(device, torch.float32).contiguous() for table in tables]
        self._code_of_latent = torch.tensor(CODE_OF_LATENT, dtype=torch.int32, device=device)
        self._launches = launches(layers, device, dtype, noise)
        self._rings = make_rings(layers, slots + 1, device, dtype)
        self._buckets = _buckets(slots)
        scratch = torch.empty(self._buckets[-1] * scratch_columns(layers), device=device, dtype=dtype)
        self._batches = {bucket: _Batch.empty(bucket, self._spare, self._rings, scratch) for bucket in self._buckets}
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        # Before the language model where both have work: somebody waits for these samples.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None

    def reset(self, slot: int) -> None:
        """A new utterance begins in this slot: nothing to do, what the old one left lies before position 0."""

    def warm_up(self, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Compiles the kernels and captures a graph for every batch size, so that no request waits for it."""
        for done, bucket in enumerate(reversed(self._buckets if self._stream else [])):
            progress(done + 1, len(self._buckets))
            self.graph(bucket)

    def decode(self, slots: list[int], codes: Tensor, start: list[int], total: list[int], seeds: list[int]) -> Tensor:
        """Pushes codes int [B, frames, 7] that follow `start` earlier frames; -> float32 [B, frames * 2048].

        `total` is the utterance's frame count, NO_END while it is unknown; frames past it push the rest out.
        """
        rows, frames = len(slots), codes.shape[1]
        samples = torch.empty(rows, frames, SAMPLES_PER_FRAME, device=self._device)
        with self._beside(codes, samples):
            for frame, work in self._run(slots, codes, start, total, seeds):
                samples[:, frame] = work.samples[:rows]
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return samples.flatten(1)

    def begin(
        self, slots: list[int], codes: Tensor, start: list[int], total: list[int], seeds: list[int]
    ) -> PendingSpeech:
        """As `decode`, to 16-bit PCM in host memory, without waiting for it. Calls take effect in their order.

        It begins after what the caller's current stream holds by now: codes that have landed are best handed over on
        another stream than the language model's, else they would wait for the frame that is already launched there.
        """
        rows, frames = len(slots), codes.shape[1]
        cuda = self._stream is not None
        pcm = torch.empty(frames, rows, SAMPLES_PER_FRAME, dtype=torch.int16, pin_memory=cuda)
        with self._beside(codes):
            for frame, work in self._run(slots, codes, start, total, seeds):
                pcm[frame].copy_(work.pcm[:rows], non_blocking=True)
            done = torch.cuda.Event() if cuda else None
            if done is not None:
                done.record(self._stream)
        return PendingSpeech(pcm, done)

    def graph(self, rows: int) -> torch.cuda.CUDAGraph:
        """What decodes a frame of this many rows; compiled and captured when it is first asked for."""
        batch = self._batch(rows)
        bucket = batch.codes.shape[0]
        if bucket not in self._graphs:
            assert self._stream is not None
            with self._beside():
                self._launch(batch)  # compiles; a frame that is decoded twice leaves what one decode leaves
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                self._launch(batch)
            self._graphs[bucket] = graph
        return self._graphs[bucket]

    def _batch(self, rows: int) -> _Batch:
        return self._batches[self._buckets[bisect_left(self._buckets, rows)]]

    @contextmanager
    def _beside(self, *shared: Tensor) -> Iterator[None]:
        """On the codec's stream, after what the caller's stream has been given so far."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        for tensor in shared:
            if tensor.is_cuda:
                tensor.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            yield

    def _run(
        self, slots: list[int], codes: Tensor, start: list[int], total: list[int], seeds: list[int]
    ) -> Iterator[tuple[int, Work]]:
        """Decodes frame after frame; a frame's results are to be taken before the next is asked for."""
        rows, frames = codes.shape[:2]
        if max(start) + frames > MAX_FRAMES:
            raise ValueError(f"an utterance has at most {MAX_FRAMES} frames")
        batch = self._batch(rows)
        places = self._places(batch, frames, slots, start, total, seeds)
        for frame in range(frames):
            batch.work.places.copy_(places[frame], non_blocking=True)
            batch.codes[:rows].copy_(codes[:, frame], non_blocking=True)
            if self._stream is None:
                self._launch(batch)
            else:
                self.graph(rows).replay()
            yield frame, batch.work

    def _places(
        self, batch: _Batch, frames: int, slots: list[int], start: list[int], total: list[int], seeds: list[int]
    ) -> Tensor:
        """int64 [frames, 4, bucket] in host memory. A padding row has the spare slot and a total of 0: it is silent."""
        ends = [min(count, MAX_FRAMES) for count in total]
        rows = np.zeros((frames, 4, batch.codes.shape[0]), dtype=np.int64)
        rows[:, 0] = self._spare
        rows[:, :, : len(slots)] = [slots, start, ends, seeds]
        rows[:, 1, : len(slots)] += np.arange(frames)[:, None]
        places = torch.from_numpy(rows)
        return places if self._stream is None else places.pin_memory()

    def _launch(self, batch: _Batch) -> None:
        ring = self._rings[0].snaked
        lookup(batch.codes, self._code_of_latent, self._tables, ring, *batch.work.rows, launches_early(self._device))
        for launch in self._launches:
            launch(batch.work)


@dataclass(frozen=True)
class _Batch:
    """A batch size's inputs and outputs, at addresses that its graph knows."""

    codes: Tensor  # int32 [bucket, 7]
    work: Work

    @staticmethod
    def empty(bucket: int, spare: int, rings: list[Ring], scratch: Tensor) -> _Batch:
        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=scratch.device)

        places = zeros(4, bucket, dtype=torch.int64)
        places[0] = spare
        samples = zeros(bucket, SAMPLES_PER_FRAME, dtype=torch.float32)
        pcm = zeros(bucket, SAMPLES_PER_FRAME, dtype=torch.int16)
        return _Batch(zeros(bucket, FRAME_TOKENS, dtype=torch.int32), Work(rings, scratch, places, samples, pcm))


def _buckets(slots: int) -> list[int]:
    """Batch sizes with a graph of their own: at most a third of a batch is padding."""
    sizes, size = [1, 2, 4, 8], 16
    while sizes[-1] < slots:
        sizes += [size, size * 3 // 2]
        size *= 2
    return [*[size for size in sizes if size < slots], slots]
