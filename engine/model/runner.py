"""ModelRunner: the models, warm, behind a few calls: prompt, start, launch, speak. The worker's way to torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.config import DEMO_CHECKPOINT, EngineConfig
from engine.errors import CheckpointError, ConfigError, InvalidRequest
from engine.messages import ModelInfo
from engine.model import checkpoint as ckpt
from engine.model.checkpoint import Checkpoint
from engine.model.flight import Flight
from engine.model.gpu_codec import gpu_codec
from engine.model.kernels.build import BuildError
from engine.model.llama import TorchLlama
from engine.model.memory import check_room, slot_bytes
from engine.model.native import NativeLlama, supports
from engine.model.native_snac import NativeSnac
from engine.model.native_snac import supports as supports_codec
from engine.model.slots import Sampling
from engine.model.snac import NO_END, TorchSnac
from engine.model.snac_layers import codebook_tables, snac_layers
from engine.model.weights import LlamaShape, LlamaWeights, load_weights, random_weights, stored_dtype
from engine.prompt import FRAME_TOKENS, voice_prompt
from engine.scheduler import FrameResult
from engine.sequence import Chunk, Sequence
from engine.text import frame_budget
from engine.windows import flush_frames, window

# End of speech is not legal before this many frames: no request ends without a sound.
MIN_FRAMES = 1

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class DecodedFrame:
    """One frame of a batch: codes int32 [B, 7] on the device, and for each row whether its speech ended instead."""

    codes: Tensor
    ended: list[bool]


class ModelRunner:
    """Loads both models and warms them. CheckpointError, ConfigError say what cannot work."""

    def __init__(self, config: EngineConfig, progress: Progress = lambda stage, done: None) -> None:
        began = time.perf_counter()
        self.device = _device(config.device)
        torch.set_num_threads(config.cpu_threads or max(1, (os.cpu_count() or 2) // 2))
        # The codec's convolutions in true float32: TensorFloat-32 keeps 10 bits, a streamed sample would show it.
        torch.backends.cudnn.allow_tf32 = False
        progress("reading the checkpoint", 0.0)
        self.checkpoint = _open(config)
        self.context = min(config.max_context, self.checkpoint.shape.max_positions)
        weights = _weights(self.checkpoint, self.device, config, progress)
        progress("loading the codec", 0.8)
        self.model, self.codec, codec_name = _models(config, self.checkpoint, weights, self.device, self.context)
        self._launches = getattr(self.model, "launch", None)
        # The codec's own stream: a frame's audio does not queue behind the next frame.
        self._codec_stream = torch.cuda.Stream(self.device) if self._launches else None
        progress("warming up", 0.9)
        self._warm_up()
        self.info = ModelInfo(
            model="lyre-demo" if config.is_demo else self.checkpoint.name,
            codec=codec_name,
            demo=config.is_demo,
            voices=list(self.checkpoint.voices),
            defaults=self.checkpoint.defaults,
            sample_rate=ckpt.SAMPLE_RATE,
            device=_device_name(self.device),
            dtype=str(weights.embed.dtype).removeprefix("torch."),
            kernel=self.model.name,
            slots=config.max_concurrency,
            max_context=self.context,
            parameters=weights.parameters,
            load_seconds=time.perf_counter() - began,
            chunk_chars=self.checkpoint.chunk_chars,
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
            self.model.state.start(slot, ids[-1], len(ids) - 1, sampling)
            with self._beside():
                self.codec.reset(slot)

    def start(self, sequence: Sequence, sampling: Sampling) -> None:
        """Prefills the sequence's current chunk as a whole."""
        self.prefill(sequence, sampling)
        while not sequence.ready:
            self.prefill(sequence, sampling)

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

    def _warm_up(self) -> None:
        """A few frames through every path that a request takes."""
        if self._launches:
            self.model.warm_up()
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


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device", "no CUDA device is available here; use cpu or auto")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError("device", f"{name} does not exist; there are {torch.cuda.device_count()} CUDA devices")
    return torch.device("cpu") if device.type == "cpu" else device


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _open(config: EngineConfig) -> Checkpoint:
    if config.load_format == "dummy":
        assert config.model is not None
        return ckpt.dummy_checkpoint(config.model)
    if config.model is None and not (DEMO_CHECKPOINT / "lm").is_dir():
        raise CheckpointError(f"the bundled demo voice is not at {DEMO_CHECKPOINT}; set a model")
    return ckpt.open_checkpoint(config.model or str(DEMO_CHECKPOINT / "lm"), config.revision)


def _weights(checkpoint: Checkpoint, device: torch.device, config: EngineConfig, progress: Progress) -> LlamaWeights:
    shape, layout = checkpoint.shape, checkpoint.layout
    asked = None if config.dtype == "auto" else getattr(torch, config.dtype)
    if checkpoint.folder is None:
        return random_weights(shape, layout, device, asked or torch.bfloat16, seed=0)
    if asked is None:
        asked = torch.bfloat16 if device.type == "cuda" else stored_dtype(checkpoint.folder)
    return load_weights(
        checkpoint.folder, shape, layout, device, asked, lambda done: progress("loading weights", 0.1 + 0.7 * done)
    )


def _models(
    config: EngineConfig, checkpoint: Checkpoint, weights: LlamaWeights, device: torch.device, context: int
) -> tuple[Any, Any, str]:
    """The language model and the codec: in compiled CPU kernels where they fit, else in torch."""
    slots, threads = config.max_concurrency, config.cpu_threads or os.cpu_count() or 1
    codec, name = _codec(config)
    tables, layers = codebook_tables(codec), snac_layers(codec, name)
    shape, layout, cache = checkpoint.shape, checkpoint.layout, config.cache_folder
    reason = _no_native(config, device, supports(shape, weights) and supports_codec(layers))
    if reason is None:
        try:
            native = NativeLlama(shape, weights, layout, slots, context, cache, threads)
            return native, NativeSnac(layers, tables, slots, cache, threads), name
        except BuildError as error:
            reason = str(error)
    if config.cpu_kernel == "native":
        raise ConfigError("cpu_kernel", f"the native kernel cannot be used: {reason}")
    if device.type == "cpu" and weights.embed.dtype != torch.float32:
        weights = weights.to(torch.float32)
    if device.type == "cuda":
        check_room(slots, slot_bytes(shape, context, weights.embed.dtype), torch.cuda.mem_get_info(device)[0])
    if device.type == "cuda" and config.gpu_kernel != "torch":
        decoder = gpu_codec(layers, tables, slots, device, config.codec_dtype)
    else:
        decoder = TorchSnac(layers, tables, slots, device, torch.float32)
    graphs = _graphs(config, shape, device)
    if graphs:
        return graphs(shape, weights, layout, slots, context, config.batch_invariant), decoder, name
    return TorchLlama(shape, weights, layout, slots, context), decoder, name


def _graphs(config: EngineConfig, shape: LlamaShape, device: torch.device) -> Any:
    """The model of Triton kernels and CUDA graphs where it can run, else None."""
    if device.type != "cuda" or config.gpu_kernel == "torch":
        return None
    if find_spec("triton") is None:
        reason = "triton is not installed"
    else:
        # Here, because Triton is not on every machine.
        from engine.model.graphs import GraphLlama
        from engine.model.graphs import supports as fits

        if fits(shape):
            return GraphLlama
        reason = "the model's heads do not fit its blocks"
    if config.gpu_kernel == "triton":
        raise ConfigError("gpu_kernel", f"the Triton kernels cannot be used: {reason}")
    return None


def _no_native(config: EngineConfig, device: torch.device, fits: bool) -> str | None:
    """Why the CPU kernels are not to be used, or None."""
    if device.type != "cpu":
        return "the device is not the CPU"
    if config.cpu_kernel == "torch":
        return "cpu_kernel is torch"
    return None if fits else "the model's dimensions do not fit the kernel's vectors"


def _codec(config: EngineConfig) -> tuple[Any, str]:
    if config.load_format == "dummy":
        name = config.codec or "snac-24khz"
        return ckpt.dummy_codec(name), name
    if config.codec is None and config.is_demo:
        return ckpt.load_codec(str(DEMO_CHECKPOINT / "codec")), "lyre-demo-codec"
    name = config.codec or ckpt.DEFAULT_CODEC
    return ckpt.load_codec(name, config.codec_revision), name
