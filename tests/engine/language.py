"""Driving a language model frame by frame, as the engine does: streams that join and leave a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LlamaForCausalLM

from engine.model.checkpoint import Checkpoint, open_checkpoint
from engine.model.llama import TorchLlama
from engine.model.native import NativeLlama
from engine.model.slots import Sampling, SlotState
from engine.model.weights import LlamaWeights, load_weights
from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS, voice_prompt

CPU = torch.device("cpu")
CONTEXT = 640
NEVER = 10**6  # min_frames of a stream that must not end

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0, window=0, seed=0)


def sampling(seed: int = 0, **changes: float) -> Sampling:
    """Orpheus' usual settings, changed."""
    usual = {"temperature": 0.6, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.1, "window": 0}
    return Sampling(**{**usual, **changes}, seed=seed)  # type: ignore[arg-type]


class Model(Protocol):
    """What TorchLlama and NativeLlama share."""

    state: SlotState
    keys: Tensor
    values: Tensor

    def prefill(self, slot: int, ids: list[int]) -> object: ...
    def decode_frame(self, slots: list[int], length: int, min_frames: int) -> tuple[Tensor, Tensor]: ...


@dataclass
class Voice:
    """One stream: when it joins, where it sits, how long it stays, and the codes that it got."""

    ids: list[int]
    sampling: Sampling
    slot: int = 0
    joins: int = 0
    frames: int = 8
    min_frames: int = NEVER
    codes: list[list[int]] = field(default_factory=list)
    ended: bool = False


def converse(model: Model, voices: list[Voice]) -> list[list[list[int]]]:
    """Runs all voices, each from its frame on, in one batch; -> each voice's frames of codes."""
    for turn in range(max(voice.joins + voice.frames for voice in voices)):
        for voice in voices:
            if voice.joins == turn:
                model.prefill(voice.slot, voice.ids[:-1])
                model.state.start(voice.slot, voice.ids[-1], len(voice.ids) - 1, voice.sampling)
        live = [v for v in voices if v.joins <= turn < v.joins + v.frames and not v.ended]
        if not live:
            continue
        length = max(len(v.ids) + FRAME_TOKENS * len(v.codes) for v in live) + FRAME_TOKENS
        codes, ended = model.decode_frame([v.slot for v in live], length, min(v.min_frames for v in live))
        for voice, row, end in zip(live, codes.tolist(), ended.tolist(), strict=True):
            voice.ended = end
            if not end:
                voice.codes.append(row)
    return [voice.codes for voice in voices]


@dataclass
class Loaded:
    """One checkpoint in every form that tests compare."""

    folder: Path
    checkpoint: Checkpoint
    weights: LlamaWeights  # float32
    reference: LlamaForCausalLM  # float32

    def ids(self, text: str) -> list[int]:
        """A whole prompt."""
        return self.checkpoint.layout.prompt(self.checkpoint.encode(voice_prompt("ana", text)))

    def plain(self, slots: int = 1, context: int = CONTEXT) -> TorchLlama:
        """The torch engine."""
        return TorchLlama(self.checkpoint.shape, self.weights, self.checkpoint.layout, slots, context)

    def native(self, cache: Path, slots: int = 1, context: int = CONTEXT) -> NativeLlama:
        """The CPU kernel."""
        return NativeLlama(self.checkpoint.shape, self.weights, self.checkpoint.layout, slots, context, cache)


def load(folder: Path) -> Loaded:
    """Reads a folder with the engine and with transformers."""
    checkpoint = open_checkpoint(str(folder))
    weights = load_weights(folder, checkpoint.shape, checkpoint.layout, CPU, torch.float32)
    reference = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reference.generation_config = GenerationConfig(do_sample=False)
    return Loaded(folder, checkpoint, weights, reference)


@torch.inference_mode()
def reference_frames(loaded: Loaded, ids: list[int], frames: int) -> list[list[int]]:
    """Greedy slot-constrained codes by transformers alone: at slot k the best of its 4096 tokens."""
    # Called `cache` from transformers 5.24 on.
    known = signature(LlamaForCausalLM.forward).parameters
    kept = {"cache" if "cache" in known else "past_key_values": DynamicCache()}
    device, tokens, codes = loaded.reference.device, ids, []
    for i in range(frames * FRAME_TOKENS):
        first = loaded.checkpoint.layout.first_audio + i % FRAME_TOKENS * CODEBOOK_SIZE
        logits = loaded.reference(torch.tensor([tokens], device=device), use_cache=True, **kept).logits[0, -1]
        codes.append(int(logits[first : first + CODEBOOK_SIZE].argmax()))
        tokens = [first + codes[-1]]
    return [codes[i : i + FRAME_TOKENS] for i in range(0, len(codes), FRAME_TOKENS)]


Build = Callable[..., Model]
