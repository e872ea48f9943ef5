"""Where an Orpheus-format model and a SNAC codec come from: a hub id, a local folder, or the shape of a named config.

A model folder holds config.json, tokenizer.json and safetensors; a codec folder config.json and pytorch_model.bin (or
model.safetensors). Nothing here runs code from a checkpoint: tensors come from safetensors, or from a pickle that is
read with `weights_only=True`.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file
from snac import SNAC
from torch import Tensor

from engine.config import SamplingParams, is_commit
from engine.errors import CheckpointError
from engine.messages import SamplingDefaults
from engine.model.reading import reading
from engine.model.tokenizer import open_tokenizer
from engine.model.weights import LlamaShape
from engine.prompt import AUDIO_TOKENS, FIRST_AUDIO_NUMBER, TokenLayout
from engine.text import MAX_CHUNK_CHARS

ENGLISH_VOICES: Final = ("tara", "leah", "jess", "leo", "dan", "mia", "zac", "zoe")
DEFAULT_CODEC: Final = "hubertsiuzdak/snac_24khz"
SAMPLE_RATE: Final = 24_000

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_MODEL_FILES = ["*.json", "*.safetensors"]
_CODEC_FILES = ["config.json", "pytorch_model.bin", "*.safetensors"]

# Shapes for load_format "dummy". Sources: the config.json of canopylabs/orpheus-3b-0.1-ft and hubertsiuzdak/snac_24khz.
DUMMY_MODELS: Final[dict[str, dict[str, Any]]] = {
    "orpheus-3b": {
        "model_type": "llama", "num_hidden_layers": 28, "hidden_size": 3072, "num_attention_heads": 24,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192, "vocab_size": 156940,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072, "tie_word_embeddings": True,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }
}  # fmt: skip
DUMMY_CODECS: Final[dict[str, dict[str, Any]]] = {
    "snac-24khz": {
        "sampling_rate": 24000, "encoder_dim": 48, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 1024,
        "decoder_rates": [8, 8, 4, 2], "attn_window_size": None, "codebook_size": 4096, "codebook_dim": 8,
        "vq_strides": [4, 2, 1], "noise": True, "depthwise": True,
    }
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """All of a model but its weights. `folder` is None for a dummy; `chunk_chars`: how much text it speaks at once."""

    name: str
    folder: Path | None
    shape: LlamaShape
    layout: TokenLayout
    voices: tuple[str, ...]
    defaults: SamplingDefaults
    encode: Callable[[str], list[int]]
    chunk_chars: int = MAX_CHUNK_CHARS
    commit: str | None = None  # of the hub's repository that it came from


def open_checkpoint(source: str, revision: str | None = None) -> Checkpoint:
    """A model from a local folder or the hub. CheckpointError names the file that is missing or wrong, and the fix."""
    folder = _resolve(source, revision, _MODEL_FILES)
    config = _read_json(folder / "config.json")
    with reading(folder / "config.json"):
        shape = LlamaShape.from_config(config, str(folder))
    tokenizer, begin_of_text = open_tokenizer(folder)
    layout = TokenLayout.from_vocabulary(tokenizer.token_to_id, begin_of_text, shape.vocab)
    if max(tokenizer.get_vocab().values()) >= shape.vocab:
        raise CheckpointError(f"{folder}: the tokenizer has ids beyond config.json's vocab_size of {shape.vocab}")

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    return Checkpoint(
        name=source if _HUB_ID.fullmatch(source) and not Path(source).exists() else folder.name,
        folder=folder,
        shape=shape,
        layout=layout,
        voices=_voices(config, folder),
        defaults=_defaults(folder),
        encode=encode,
        chunk_chars=_chunk_chars(config, folder),
        commit=commit_of(source, folder),
    )


def dummy_checkpoint(name: str) -> Checkpoint:
    """A named shape without weights or tokenizer: for measuring speed. CheckpointError lists the known names."""
    config = DUMMY_MODELS.get(name)
    if config is None:
        raise CheckpointError(f"no dummy shape {name!r}; known: {', '.join(DUMMY_MODELS)}")

    def encode(text: str) -> list[int]:
        # About as many tokens as Llama 3's tokenizer makes of English.
        return [zlib.crc32(text[i : i + 4].encode()) % 128_000 for i in range(0, len(text), 4)]

    base = 128_256
    layout = TokenLayout(
        begin_of_text=128_000,
        end_of_turn=128_009,
        start_of_human=base + 3,
        end_of_human=base + 4,
        start_of_ai=base + 5,
        start_of_speech=base + 1,
        end_of_speech=base + 2,
        first_audio=base + FIRST_AUDIO_NUMBER,
    )
    assert layout.first_audio + AUDIO_TOKENS <= config["vocab_size"]
    return Checkpoint(name, None, LlamaShape.from_config(config, name), layout, ENGLISH_VOICES, _defaults(None), encode)


def codec_folder(source: str, revision: str | None = None) -> Path:
    """A codec's files from a local folder or the hub. CheckpointError says why there are none."""
    return _resolve(source, revision, _CODEC_FILES)


def load_codec(source: str) -> SNAC:
    """SNAC's quantiser and decoder, in fp32 on the CPU; the encoder is not needed and may be absent."""
    folder = codec_folder(source)
    config = _read_json(folder / "config.json")
    if config.get("sampling_rate") != SAMPLE_RATE:
        raise CheckpointError(
            f"{folder}: the codec's sampling_rate is {config.get('sampling_rate')}, not {SAMPLE_RATE}"
        )
    model = _snac(config, folder)
    state = _codec_state(folder)
    with reading(f"the codec in {folder}"):
        missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith("encoder.")]
    if missing or unexpected:
        names = ", ".join([*missing[:3], *unexpected[:3]])
        raise CheckpointError(f"{folder}: the codec's weights do not match its config.json ({names}, ...)")
    return model.float().eval()


def dummy_codec(name: str, seed: int = 0) -> SNAC:
    """A codec of a named shape with random weights."""
    config = DUMMY_CODECS.get(name)
    if config is None:
        raise CheckpointError(f"no dummy codec {name!r}; known: {', '.join(DUMMY_CODECS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SNAC(**config).eval()


def _resolve(source: str, revision: str | None, patterns: list[str]) -> Path:
    with reading(f"the path {source[:200]!r}"):
        folder = Path(source).expanduser()
        if source and folder.is_dir():
            return folder
    if not _HUB_ID.fullmatch(source):
        raise CheckpointError(f"{source[:200]!r} is neither a folder nor a hub id like 'canopylabs/orpheus-3b-0.1-ft'")
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise CheckpointError(f"{source} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{source} is not on the hub (or is private: set HF_TOKEN)") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"{source} could not be downloaded and is not in the local cache: {error}") from error


def commit_of(source: str, folder: Path) -> str | None:
    """What the hub's cache calls a snapshot; None for a folder of one's own."""
    return folder.name if not Path(source).expanduser().is_dir() and is_commit(folder.name) else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; download the checkpoint again")
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def _voices(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    voices = config.get("voices", list(ENGLISH_VOICES))
    if not voices or not isinstance(voices, list) or not all(isinstance(voice, str) and voice for voice in voices):
        raise CheckpointError(f"{folder / 'config.json'}: 'voices' must be a list of names")
    return tuple(voices)


def _chunk_chars(config: dict[str, Any], folder: Path) -> int:
    chars = config.get("chunk_chars", MAX_CHUNK_CHARS)
    if not isinstance(chars, int) or not 40 <= chars <= 1000:
        raise CheckpointError(f"{folder / 'config.json'}: 'chunk_chars' must be a whole number from 40 to 1000")
    return chars


def _defaults(folder: Path | None) -> SamplingDefaults:
    path = folder / "generation_config.json" if folder else None
    named = _read_json(path) if path and path.is_file() else {}

    def value(name: str, default: float) -> float:
        return default if named.get(name) is None else float(named[name])

    with reading(path):
        defaults = SamplingDefaults(
            temperature=value("temperature", 0.6),
            top_p=value("top_p", 0.9),
            top_k=int(value("top_k", 0)),
            repetition_penalty=value("repetition_penalty", 1.1),
            repetition_window=int(value("repetition_window", 0)),
        )
        # The limits of a request are those of a checkpoint, too.
        SamplingParams(**msgspec.structs.asdict(defaults))
        return defaults


def _snac(config: dict[str, Any], folder: Path) -> SNAC:
    with reading(f"{folder / 'config.json'} of the codec"):
        return SNAC(**config)


def _codec_state(folder: Path) -> dict[str, Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if not safe.is_file() and not pickled.is_file():
        raise CheckpointError(f"{folder} holds neither model.safetensors nor pytorch_model.bin, the codec's weights")
    with reading(f"the codec in {folder}"):
        return load_file(safe) if safe.is_file() else torch.load(pickled, map_location="cpu", weights_only=True)
