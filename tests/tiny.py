"""Tiny checkpoints in the format of the real ones, written in a moment: what tests load instead of 3 billion weights.

`write_llama` makes an Orpheus folder (safetensors, config, tokenizer), `write_snac` a SNAC folder. All weights come
from seeds. They are large enough that logits depend on the context and audio fills its range.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from snac import SNAC
from snac.layers import Snake1d
from transformers import LlamaConfig, LlamaForCausalLM

VOICES = ("ana", "ben")
CUSTOM_BASE = 128  # <custom_token_0>'s id
CUSTOM_TOKENS = 28_682
VOCAB = CUSTOM_BASE + CUSTOM_TOKENS + 22  # a little larger than the tokenizer, as the real one is
BEGIN_OF_TEXT, END_OF_TURN = 120, 121
END_OF_SPEECH = CUSTOM_BASE + 2
FIRST_AUDIO = CUSTOM_BASE + 10

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # So short that the positions of a test lie on both sides of every boundary.
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class TinyLlama:
    """What a checkpoint's network looks like. `end_gain` makes the end of speech likelier (untied heads only)."""

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 32
    intermediate: int = 96
    tied: bool = True
    rope: dict[str, Any] | None = None
    dtype: torch.dtype = torch.float32
    shard_size: str = "1GB"
    end_gain: float = 1.0
    seed: int = 0


def write_llama(folder: Path, spec: TinyLlama, voices: tuple[str, ...] = VOICES) -> Path:
    """Writes a whole model folder and returns it."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.intermediate,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=spec.tied,
        rope_parameters=spec.rope or {"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=BEGIN_OF_TEXT,
        eos_token_id=END_OF_SPEECH,
        dtype=spec.dtype,
    )
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(spec.seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.uniform_(0.5, 1.5, generator=generator)
            else:
                weight.normal_(0.0, 0.15, generator=generator)
        if spec.end_gain != 1.0:
            model.lm_head.weight[END_OF_SPEECH] *= spec.end_gain
    model.to(spec.dtype).save_pretrained(folder, max_shard_size=spec.shard_size)
    edit_json(folder / "config.json", voices=list(voices))
    write_json(folder / "generation_config.json", {"eos_token_id": END_OF_SPEECH, "temperature": 0.7, "top_p": 0.95})
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path, special: bool = True, without: frozenset[str] = frozenset()) -> None:
    """One token a printable ASCII character, and Orpheus' control and audio tokens.

    `special`: how the control tokens are flagged; checkpoints differ in it. `without`: tokens to leave out.
    """
    characters = {chr(code): code - 32 for code in range(32, 127)}
    control = {"<|begin_of_text|>": BEGIN_OF_TEXT, "<|eot_id|>": END_OF_TURN}
    custom = {f"<custom_token_{number}>": CUSTOM_BASE + number for number in range(CUSTOM_TOKENS)}
    vocabulary = {text: token for text, token in {**characters, **control, **custom}.items() if text not in without}
    # Only a few of the custom tokens are declared as added ones: declaring all makes a load take seconds.
    declared = [text for text in (*control, *list(custom)[:16]) if text in vocabulary]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[text], "content": text, **flags} for text in declared],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    write_json(folder / "tokenizer.json", tokenizer)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "model_max_length": 4096,
    }
    write_json(folder / "tokenizer_config.json", settings)


def snac_config(decoder_dim: int, **changes: Any) -> dict[str, Any]:
    """A SNAC config.json of the 24 kHz structure. The CPU kernel needs decoder_dim 512 or more."""
    shape = {
        "sampling_rate": 24_000,
        "encoder_dim": 8,
        "encoder_rates": [2, 4, 8, 8],
        "decoder_dim": decoder_dim,
        "decoder_rates": [8, 8, 4, 2],
        "attn_window_size": None,
        "codebook_size": 4096,
        "codebook_dim": 8,
        "vq_strides": [4, 2, 1],
        "noise": True,
        "depthwise": True,
    }
    return {**shape, **changes}


def build_snac(decoder_dim: int, seed: int = 0, **changes: Any) -> SNAC:
    """A codec with random weights whose audio has a standard deviation of about 0.3."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = SNAC(**snac_config(decoder_dim, **changes)).eval()
        for module in model.decoder.modules():
            if isinstance(module, Snake1d):
                module.alpha.uniform_(0.3, 2.0)
        *_, output, _tanh = model.decoder.model
        output.bias.zero_()
        codes = [torch.randint(4096, (1, 16 * per_frame)) for per_frame in (1, 2, 4)]
        raw = model.decoder.model[:-1](model.quantizer.from_codes(codes))
        gain = 0.3 / raw.std()
        output.parametrizations.weight.original0 *= gain
        output.bias.fill_(-gain * raw.mean())
    return model


def write_snac(folder: Path, decoder_dim: int, seed: int = 0) -> Path:
    """Writes a whole codec folder and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", snac_config(decoder_dim))
    torch.save(build_snac(decoder_dim, seed).state_dict(), folder / "pytorch_model.bin")
    return folder


def write_json(path: Path, content: Any) -> None:
    """Plain JSON."""
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Sets fields of a JSON object; None removes a field."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    write_json(path, {name: value for name, value in content.items() if value is not None})
