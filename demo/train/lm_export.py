"""The trained weights as an Orpheus-format folder that transformers loads, and such a folder as weights again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo.train import tokenizer as layout
from demo.train.lm_model import Shape, views


def tensor_names(flat: Tensor, shape: Shape) -> dict[str, Tensor]:
    """Every weight under its name in a Llama's state dict, as a view of the flat buffer."""
    group = views(flat, shape)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    named = {"model.embed_tokens.weight": group["embed"], "model.norm.weight": group["norms"][-1]}
    for index in range(shape.layers):
        prefix = f"model.layers.{index}."
        parts = group["qkv"][index].split((queries, keys, keys))
        named |= {f"{prefix}self_attn.{name}_proj.weight": part for name, part in zip("qkv", parts, strict=True)}
        gate, up = group["gate_up"][index].chunk(2)
        named |= {
            f"{prefix}self_attn.o_proj.weight": group["out"][index],
            f"{prefix}mlp.gate_proj.weight": gate,
            f"{prefix}mlp.up_proj.weight": up,
            f"{prefix}mlp.down_proj.weight": group["down"][index],
            f"{prefix}input_layernorm.weight": group["norms"][2 * index],
            f"{prefix}post_attention_layernorm.weight": group["norms"][2 * index + 1],
        }
    return named


def model_config(shape: Shape, voices: Sequence[str]) -> dict:
    """config.json: spelled so that transformers 4 and 5 both read it; `voices` is Lyre's own key."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": layout.BEGIN_OF_TEXT,
        "eos_token_id": layout.END_OF_SPEECH,
        "pad_token_id": layout.PAD,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "voices": list(voices),
        # Its training sentences are short: what it speaks in one go must be, too.
        "chunk_chars": 140,
    }


def generation_config() -> dict:
    """generation_config.json: what the released voice is sampled with."""
    return {
        "bos_token_id": layout.BEGIN_OF_TEXT,
        "eos_token_id": layout.END_OF_SPEECH,
        "pad_token_id": layout.PAD,
        "do_sample": True,
        "temperature": 0.4,
        "top_p": 0.9,
        "repetition_penalty": 1.0,
        "max_new_tokens": 1800,
    }


def shape_of(config: dict) -> Shape:
    """The shape that a config.json describes."""
    rope = config.get("rope_parameters") or {}
    return Shape(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        mlp=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        rope_theta=rope.get("rope_theta") or config["rope_theta"],
        norm_eps=config["rms_norm_eps"],
        context=config["max_position_embeddings"],
    )


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place in one step."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    partial.chmod(0o644)
    partial.replace(path)


def save(folder: Path, flat: Tensor, shape: Shape, voices: Sequence[str]) -> None:
    """Write the folder, every file in one step, so that a run killed midway leaves a whole model."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        layout.write(folder)
    configs = {"config.json": model_config(shape, voices), "generation_config.json": generation_config()}
    for name, content in configs.items():
        text = json.dumps(content, indent=2) + "\n"
        replace(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))
    rounded = tensor_names(flat.detach().cpu().bfloat16(), shape)
    tensors = {name: tensor.clone() for name, tensor in rounded.items()}
    replace(folder / "model.safetensors", lambda path: save_file(tensors, path, metadata={"format": "pt"}))


def load(folder: Path) -> tuple[Tensor, Shape]:
    """The flat fp32 weights of a folder, and their shape."""
    shape = shape_of(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    flat = torch.empty(shape.size)
    stored = load_file(folder / "model.safetensors")
    for name, tensor in tensor_names(flat, shape).items():
        tensor.copy_(stored[name])
    return flat, shape
