"""ModelRunner: the models, warm, behind a few calls: prompt, start, launch, speak. The worker's way to torch."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.errors import InvalidRequest
from engine.messages import ModelInfo
from engine.model import checkpoint as ckpt
from engine.model.flight import Flight
from engine.model.loading import (
    Progress,
    counted,
    device_name,
    device_of,
    dtype_name,
    fitting,
    models_of,
    open_model,
    weights_of,
)
from engine.model.slots import Sampling
from engine.model.snac import NO_END
from engine.prompt import FRAME_TOKENS, voice_prompt
from engine.scheduler import FrameResult
from engine.sequence import Chunk, Sequence
from engine.text import frame_budget
from engine.windows import flush_frames, window

# End of speech is not legal before this many frames: no request ends without a sound.
MIN_FRAMES = 1


@dataclass(frozen=True)
class DecodedFrame:
    """One frame of a batch: codes int32 [B, 7] on the device, and for each row whether its speech ended instead."""

    codes: Tensor
    ended: list[bool]


class ModelRunner:
    """Loads both models and warms them. CheckpointError, ConfigError say what cannot work."""

    def __init__(self, config: EngineConfig, progress: Progress = lambda stage, done: None) -> None:
        began = time.perf_counter()
        self.device = device_of(config.device)
        if self.device.index is not None:
            # Triton launches, captures and cuBLAS go to the current device, whatever their tensors are on.
            torch.cuda.set_device(self.device)
        torch.set_num_threads(config.cpu_threads or max(1, (os.cpu_count() or 2) // 2))
        # The codec's convolutions in true float32: TensorFloat-32 keeps 10 bits, a streamed sample would show it.
        torch.backends.cudnn.allow_tf32 = False
        progress("checkpoint", 0.0)
        self.checkpoint = open_model(config)
        self.context = min(config.max_context, self.checkpoint.shape.max_positions)
        weights = weights_of(self.checkpoint, self.device, config, progress)
        self.model, self.codec, (codec_name, codec_commit) = models_of(
            config, self.checkpoint, weights, self.device, self.context, progress
        )
        self._launches = getattr(self.model, "launch", None)
        # The codec's own stream: a frame's audio does not queue behind the next frame.
        self._codec_stream = torch.cuda.Stream(self.device) if self._launches else None
        with fitting(self.device):
            self._warm_up(progress)
        self.info = ModelInfo(
            model="lyre-demo" if config.is_demo else self.checkpoint.name,
            codec=codec_name,
            demo=config.is_demo,
            voices=list(self.checkpoint.voices),
            defaults=self.checkpoint.defaults,
            sample_rate=ckpt.SAMPLE_RATE,
            device=device_name(self.device),
            dtype=dtype_name(config, weights),
            kernel=self.model.name,
            attention=self.model.attention,
            slots=config.max_concurrency,
            max_context=self.context,
            parameters=weights.parameters,
            load_seconds=time.perf_counter() - began,
            chunk_chars=self.checkpoint.chunk_chars,
            commit=self.checkpoint.commit,
            codec_commit=codec_commit,
        )

    def prompt(self, voice: str, text: str) -> Chunk:
        """A chunk of text as prompt ids, with the frames it may take. InvalidRequest when it does not fit a slot."""
        ids = self.checkpoint.layout.prompt(self.checkpoint.encode(voice_prompt(voice, text)))
        room = (self.context - len(ids)) // FRAME_TOKENS
        if room < 1:
            raise InvalidRequest("input", f"a piece of the text takes {len(ids)} tokens; a slot holds {self.context}")
        return Chunk(prompt=ids, max_frames=min(room, frame_budget(text)))

    def prefill(self, sequence: Sequence, sampling: Sampling) -> None:
        """Takes the next piece of the current chunk's prompt; when that was the last, the next frame is the first."""
        slot, ids, done = _slot(sequence), sequence.current.prompt, sequence.prefilled
        piece = ids[done:-1][: self.model.prefill_piece]
        if piece and self.model.prefill_piece:
            self.model.prefill(slot, piece, done)
        elif piece:
            self.model.prefill(slot, piece)
        sequence.prefilled += len(piece)
        if sequence.ready:
            self._enter(sequence, sampling)

    def start(self, sequence: Sequence, sampling: Sampling) -> None:
        """Prefills the sequence's current chunk as a whole."""
        self.prefill(sequence, sampling)
        while not sequence.ready:
            self.prefill(sequence, sampling)

    def start_all(self, sequences: list[tuple[Sequence, Sampling]]) -> None:
        """Prefills all these sequences' current chunks, together and with the next frame where the model can."""
        join = getattr(self.model, "join", None)
        if join is None:
            for sequence, sampling in sequences:
                self.start(sequence, sampling)
            return
        join([(_slot(sequence), sequence.current.prompt[:-1]) for sequence, _ in sequences])
        for sequence, sampling in sequences:
            sequence.prefilled = len(sequence.current.prompt) - 1
            self._enter(sequence, sampling)

    def _enter(self, sequence: Sequence, sampling: Sampling) -> None:
        """A chunk whose prompt is in the cache: its next frame is the first."""
        slot, ids = _slot(sequence), sequence.current.prompt
        self.model.state.start(slot, ids[-1], len(ids) - 1, sampling)
        with self._beside():
            self.codec.reset(slot)

    @property
    def ahead(self) -> int:
        """How many frames may be launched before the first of them is waited for, beyond that one."""
        return 1 if self._launches else 0

    def launch(self, sequences: list[Sequence]) -> Flight:
        """Begins the next frame of every sequence, in one batch; later calls to the models come after it."""
        slots = [_slot(sequence) for sequence in sequences]
        if self._launches:
            return self._launches(slots, MIN_FRAMES)
        length = max(sequence.length for sequence in sequences) + FRAME_TOKENS
        return Flight(*self.model.decode_frame(slots, length, MIN_FRAMES))

    def decode_frame(self, sequences: list[Sequence]) -> DecodedFrame:
        """The next frame of every sequence, in one batch."""
        flight = self.launch(sequences)
        return DecodedFrame(flight.codes, flight.land())

    def speak(self, results: list[FrameResult], codes: Tensor) -> list[bytes]:
        """The audio that a decoded frame makes ready, s16le PCM for each result (empty where none is ready yet)."""
        with self._beside():
            return self._speak(results, codes)

    def _speak(self, results: list[FrameResult], codes: Tensor) -> list[bytes]:
        spoken = [row for row, result in enumerate(results) if result.spoken]
        pcm = [b""] * len(results)
        if spoken:
            sequences = [results[row].sequence for row in spoken]
            pushed = codes[torch.tensor(spoken, device=codes.device)][:, None]
            for row, audio in zip(spoken, self._decode(sequences, pushed, first=-1, ended=False), strict=True):
                pcm[row] += audio
        last = [row for row, result in enumerate(results) if result.last]
        if last:
            sequences = [results[row].sequence for row in last]
            empty = codes.new_zeros(len(last), flush_frames(self.codec.lag), FRAME_TOKENS)
            for row, audio in zip(last, self._decode(sequences, empty, first=0, ended=True), strict=True):
                pcm[row] += audio
        return pcm

    def _decode(self, sequences: list[Sequence], codes: Tensor, first: int, ended: bool) -> list[bytes]:
        """Pushes codes [B, frames, 7] that begin at each sequence's frame count + `first`."""
        slots = [_slot(sequence) for sequence in sequences]
        starts = [sequence.frames + first for sequence in sequences]
        totals = [sequence.frames if ended else NO_END for sequence in sequences]
        pcm = self._pcm(slots, codes, starts, totals, [sequence.chunk_seed for sequence in sequences])
        kept = [
            window(s, codes.shape[1], self.codec.lag, t if ended else None) for s, t in zip(starts, totals, strict=True)
        ]
        return [row[w.skip : w.skip + w.keep].astype("<i2").tobytes() for row, w in zip(pcm, kept, strict=True)]

    def _beside(self) -> AbstractContextManager[object]:
        """Work on the codec's stream, if there is one. What it reads has landed, and its results are waited for."""
        return torch.cuda.stream(self._codec_stream) if self._codec_stream else nullcontext()

    def _pcm(self, *arguments: Any) -> np.ndarray:
        """The codec's samples as int16 [B, frames * 2048]; a GPU's kernels make them so themselves."""
        begin = getattr(self.codec, "begin", None)
        if begin:
            return begin(*arguments).pcm()
        samples = self.codec.decode(*arguments)
        return (samples * 32767.0).round().clamp(-32768, 32767).to(torch.int16).numpy(force=True)

    def _warm_up(self, progress: Progress) -> None:
        """A few frames through every path that a request takes."""
        if self._launches:
            self.model.warm_up(counted(progress, "language model", 0.75, 0.95))
        progress("warm synthesis", 0.95)
        chunk = self.prompt(self.checkpoint.voices[0], "Hello.")
        sequence = Sequence(request_id=-1, chunks=[chunk], seed=0, slot=0)
        self.start(sequence, Sampling(temperature=0.6, top_p=0.9, top_k=0, repetition_penalty=1.1, window=0, seed=0))
        for i in range(4):
            frame = self.decode_frame([sequence])
            sequence.frames += 1
            self.speak([FrameResult(sequence, spoken=True, last=i == 3)], frame.codes)


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot
