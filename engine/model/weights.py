"""A Llama's shape and tensors: read from sharded safetensors straight to the device, or drawn at random."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from engine.errors import CheckpointError
from engine.model.fp8 import Fp8Matrix, Matrix, plain
from engine.model.reading import reading
from engine.model.rope import inverse_frequencies
from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS, TokenLayout

# Rows of a slot's head: its 4,096 codes, end of speech, and padding: libraries are slow unless the rows divide by 8.
HEAD_ROWS = CODEBOOK_SIZE + 8
END_ROW = CODEBOOK_SIZE


@dataclass(frozen=True)
class LlamaShape:
    """What config.json says of the network."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    eps: float
    rope: dict[str, Any]
    max_positions: int
    tied: bool

    @classmethod
    def from_config(cls, config: dict[str, Any], source: str) -> LlamaShape:
        """From a Hugging Face config.json (the forms of transformers 4 and 5). CheckpointError names what is wrong."""
        _check_kind(config, source)

        def number(name: str, default: int | None = None) -> int:
            value = config.get(name) or default
            if not isinstance(value, int) or value < 1:
                raise CheckpointError(f"{source}: {name} in config.json is {config.get(name)!r}, not a positive number")
            return value

        heads, hidden = number("num_attention_heads"), number("hidden_size")
        shape = cls(
            layers=number("num_hidden_layers"),
            hidden=hidden,
            heads=heads,
            kv_heads=number("num_key_value_heads", heads),
            head_dim=number("head_dim", hidden // heads),
            intermediate=number("intermediate_size"),
            vocab=number("vocab_size"),
            eps=float(config.get("rms_norm_eps", 1e-5)),
            rope=_rope(config),
            max_positions=number("max_position_embeddings", 8192),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
        if shape.heads % shape.kv_heads or shape.head_dim % 2:
            raise CheckpointError(f"{source}: config.json: num_key_value_heads or head_dim do not divide the heads")
        inverse_frequencies(shape.rope, shape.head_dim)
        return shape


@dataclass
class LayerWeights:
    """One decoder layer; projections that read the same input are fused along their rows."""

    input_norm: Tensor  # [hidden]; ones where it is folded into qkv
    qkv: Matrix  # [(heads + 2 kv_heads) * head_dim, hidden]
    attn_out: Matrix  # [hidden, heads * head_dim]
    post_norm: Tensor  # [hidden]; ones where it is folded into gate_up
    gate_up: Matrix  # [2 * intermediate, hidden]
    down: Matrix  # [hidden, intermediate]


@dataclass
class LlamaWeights:
    """All tensors; `head` is the output head cut to what may be sampled at each slot of a frame."""

    embed: Tensor  # [vocab, hidden]
    layers: list[LayerWeights]
    norm: Tensor  # [hidden]; ones where it is folded into `head`
    lm_head: Tensor  # [vocab, hidden]; the embedding itself when tied; no norm is ever folded into it
    head: Tensor  # [7, HEAD_ROWS, hidden]

    def fold_norms(self) -> None:
        """Moves the norms' weights into the matrices that read their output, in place; once it is done, a no-op.

        A norm is one number a row then, which may be applied to a product as well. In bf16 each weight is rounded once
        more, and in return no normed number is. Matrices of 8 bits were folded before they were rounded to them. With
        `lm_head` the last norm's rows no longer give logits, with `head` they do.
        """
        for layer in self.layers:
            _fold(layer.input_norm, layer.qkv)
            _fold(layer.post_norm, layer.gate_up)
        _fold(self.norm, self.head)

    def to(self, dtype: torch.dtype) -> LlamaWeights:
        """In another type, without matrices of 8 bits; a tied head stays tied. What has that type is shared."""
        embed = self.embed.to(dtype)
        tied = self.lm_head.data_ptr() == self.embed.data_ptr()
        layers = [
            LayerWeights(**{name: plain(matrix, dtype) for name, matrix in vars(layer).items()})
            for layer in self.layers
        ]
        return LlamaWeights(
            embed, layers, self.norm.to(dtype), embed if tied else self.lm_head.to(dtype), self.head.to(dtype)
        )

    @property
    def quantised(self) -> bool:
        """Whether the layers' matrices have 8 bits."""
        return any(isinstance(layer.qkv, Fp8Matrix) for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Number of weights, the tied head counted once and the cut head not at all."""
        tensors = [self.embed, self.norm, *(t for layer in self.layers for t in vars(layer).values())]
        untied = self.lm_head.data_ptr() != self.embed.data_ptr()
        return sum(t.numel() for t in tensors) + (self.lm_head.numel() if untied else 0)


def _fold(norm: Tensor, matrix: Matrix) -> None:
    """Multiplies the matrix [.., hidden] with the norm's weight [hidden], which becomes ones."""
    if isinstance(matrix, Tensor):
        matrix.mul_(norm)
        norm.fill_(1)
    elif not bool((norm == 1).all()):
        raise ValueError("a norm is folded into a matrix before that is rounded to 8 bits")


def _check_kind(config: dict[str, Any], source: str) -> None:
    """Refuses networks that would load and then compute something else."""
    if config.get("model_type") != "llama":
        kind = config.get("model_type")
        raise CheckpointError(f"{source}: model_type in config.json is {kind!r}, an Orpheus checkpoint is a 'llama'")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise CheckpointError(f"{source}: config.json asks for biases, which Orpheus' Llama has not")
    if config.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{source}: hidden_act in config.json is {config['hidden_act']!r}, not 'silu'")
    if config.get("quantization_config"):
        raise CheckpointError(f"{source}: config.json names a quantization; weights in fp32 or bf16 are needed")


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    rope.setdefault("rope_type", rope.get("type", "default"))
    return rope


def slot_heads(lm_head: Tensor, layout: TokenLayout) -> Tensor:
    """[7, HEAD_ROWS, hidden]: for each slot its codes' rows, then end of speech, then zeros."""
    head = lm_head.new_zeros(FRAME_TOKENS, HEAD_ROWS, lm_head.shape[1])
    first = layout.first_audio
    codes = lm_head[first : first + FRAME_TOKENS * CODEBOOK_SIZE]
    head[:, :CODEBOOK_SIZE] = codes.view(FRAME_TOKENS, CODEBOOK_SIZE, -1)
    head[:, END_ROW] = lm_head[layout.end_of_speech]
    return head


def stored_dtype(folder: Path) -> torch.dtype:
    """bfloat16 for a checkpoint stored so, else float32."""
    for path in _shards(folder):
        with reading(path), safe_open(path, framework="pt") as shard:
            if "model.embed_tokens.weight" in shard.keys():  # noqa: SIM118 - not a mapping
                kept = shard.get_slice("model.embed_tokens.weight").get_dtype() == "BF16"
                return torch.bfloat16 if kept else torch.float32
    raise CheckpointError(f"{folder}: no tensor model.embed_tokens.weight in its safetensors files")


def load_weights(
    folder: Path, shape: LlamaShape, layout: TokenLayout, device: torch.device, dtype: torch.dtype,
    progress: Callable[[float], None] = lambda done: None, fp8: bool = False,
) -> LlamaWeights:  # fmt: skip
    """Reads `folder`'s safetensors, each tensor straight to `device`, as `dtype`; with `fp8` the layers in 8 bits.

    CheckpointError names a file or tensor that is missing or of the wrong shape.
    """
    with ExitStack() as stack:
        shards = {}
        for path in _shards(folder):
            with reading(path):
                shard = stack.enter_context(safe_open(path, framework="pt", device=str(device)))
            shards.update(dict.fromkeys(shard.keys(), shard))

        def read(name: str, *expected: int) -> Tensor:
            if name not in shards:
                raise CheckpointError(f"{folder}: no tensor {name} in its safetensors files")
            tensor = shards[name].get_tensor(name)
            if tuple(tensor.shape) != expected:
                raise CheckpointError(f"{folder}: {name} has shape {tuple(tensor.shape)}, config.json says {expected}")
            return tensor.to(dtype)

        return _assemble(shape, layout, read, not shape.tied, progress, fp8)


def random_weights(
    shape: LlamaShape, layout: TokenLayout, device: torch.device, dtype: torch.dtype, seed: int, fp8: bool = False
) -> LlamaWeights:
    """Weights of a real shape drawn at random: the same work as the real ones, for measuring speed."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(name: str, *expected: int) -> Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(expected, device=device, dtype=dtype)
        tensor = torch.empty(expected, device=device, dtype=dtype)
        return tensor.normal_(0.0, 0.02, generator=generator)

    return _assemble(shape, layout, draw, not shape.tied, lambda done: None, fp8)


def _assemble(
    shape: LlamaShape, layout: TokenLayout, read: Callable[..., Tensor], untied: bool,
    progress: Callable[[float], None], fp8: bool,
) -> LlamaWeights:  # fmt: skip
    def kept(matrix: Tensor, norm: Tensor | None = None) -> Matrix:
        """As the layer holds it; `norm`: the weight of the norm whose output it reads."""
        if not fp8:
            return matrix
        if norm is not None:
            _fold(norm, matrix)
        # Here, layer by layer: the device never holds the whole model twice.
        return Fp8Matrix.of(matrix)

    queries, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    embed = read("model.embed_tokens.weight", shape.vocab, shape.hidden)
    layers = []
    for i in range(shape.layers):
        at = f"model.layers.{i}."
        attention, mlp = at + "self_attn.", at + "mlp."
        input_norm = read(at + "input_layernorm.weight", shape.hidden)
        post_norm = read(at + "post_attention_layernorm.weight", shape.hidden)
        layers.append(
            LayerWeights(
                input_norm=input_norm,
                qkv=kept(
                    torch.cat(
                        [
                            read(attention + "q_proj.weight", queries, shape.hidden),
                            read(attention + "k_proj.weight", kv, shape.hidden),
                            read(attention + "v_proj.weight", kv, shape.hidden),
                        ]
                    ),
                    input_norm,
                ),
                attn_out=kept(read(attention + "o_proj.weight", shape.hidden, queries)),
                post_norm=post_norm,
                gate_up=kept(
                    torch.cat(
                        [
                            read(mlp + "gate_proj.weight", shape.intermediate, shape.hidden),
                            read(mlp + "up_proj.weight", shape.intermediate, shape.hidden),
                        ]
                    ),
                    post_norm,
                ),
                down=kept(read(mlp + "down_proj.weight", shape.hidden, shape.intermediate)),
            )
        )
        progress((i + 1) / shape.layers)
    norm = read("model.norm.weight", shape.hidden)
    lm_head = read("lm_head.weight", shape.vocab, shape.hidden) if untied else embed
    return LlamaWeights(embed, layers, norm, lm_head, slot_heads(lm_head, layout))


def _shards(folder: Path) -> Iterator[Path]:
    # An index is data from outside: of each name only the last part counts, a file beside the index.
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.is_file():
        with reading(index):
            names = sorted({Path(name).name for name in json.loads(index.read_text())["weight_map"].values()})
    elif single.is_file():
        names = [single.name]
    else:
        raise CheckpointError(f"{folder} holds neither model.safetensors nor model.safetensors.index.json")
    for name in names:
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing (named in {index.name}); download it again")
        yield path
