"""Loading: what is right is read exactly, what is wrong is a CheckpointError that names the file."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from engine import CheckpointError, EngineConfig
from engine.model import checkpoint as ckpt
from engine.model.checkpoint import (
    codec_folder,
    commit_of,
    dummy_checkpoint,
    dummy_codec,
    load_codec,
    open_checkpoint,
)
from engine.model.runner import ModelRunner
from engine.model.snac_layers import snac_layers
from engine.model.weights import LlamaShape, load_weights, random_weights, stored_dtype
from engine.prompt import voice_prompt
from engine.text import chunks
from tests.tiny import BEGIN_OF_TEXT, CUSTOM_BASE, TinyLlama, edit_json, write_json, write_tokenizer

CPU = torch.device("cpu")
CONTROL_IDS = {120, 121, *range(CUSTOM_BASE, CUSTOM_BASE + 28_682)}
Fault = Callable[[Path], None]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model folder that a test may break."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture(scope="session")
def sharded_model(llama_folder: Callable[[TinyLlama], Path]) -> Path:
    return llama_folder(TinyLlama(tied=False, shard_size="2MB", seed=4))


@pytest.fixture
def sharded(sharded_model: Path, tmp_path: Path) -> Path:
    """A sharded model folder that a test may break."""
    return Path(shutil.copytree(sharded_model, tmp_path / "sharded"))


@pytest.fixture
def codec(small_codec: Path, tmp_path: Path) -> Path:
    """A codec folder that a test may break."""
    return Path(shutil.copytree(small_codec, tmp_path / "codec"))


@pytest.fixture
def run(small_codec: Path, kernel_cache: Path) -> Callable[..., ModelRunner]:
    """`run(model, codec)`: what the engine process does first."""

    def runner(model: Path | str, codec: Path | str = small_codec, **settings: Any) -> ModelRunner:
        return ModelRunner(
            EngineConfig(model=str(model), codec=str(codec), cache=str(kernel_cache), max_concurrency=1, **settings)
        )

    return runner


# ---- what is right


def test_a_folder_is_read(tiny_model: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_model))
    assert checkpoint.name == tiny_model.name
    assert checkpoint.voices == ("ana", "ben")
    assert (checkpoint.defaults.temperature, checkpoint.defaults.top_p) == (0.7, 0.95)
    assert (checkpoint.defaults.top_k, checkpoint.defaults.repetition_penalty) == (0, 1.1)
    assert checkpoint.shape.tied
    assert checkpoint.layout.first_audio == CUSTOM_BASE + 10
    assert checkpoint.encode("ana: Hi!") == [ord(c) - 32 for c in "ana: Hi!"]


def test_orpheus_voices_and_defaults_where_a_checkpoint_names_none(model: Path) -> None:
    edit_json(model / "config.json", voices=None)
    (model / "generation_config.json").unlink()
    checkpoint = open_checkpoint(str(model))
    assert checkpoint.voices == ("tara", "leah", "jess", "leo", "dan", "mia", "zac", "zoe")
    assert (checkpoint.defaults.temperature, checkpoint.defaults.repetition_penalty) == (0.6, 1.1)


def test_a_default_that_is_null_is_not_set(model: Path) -> None:
    (model / "generation_config.json").write_text('{"temperature": null, "top_p": null, "repetition_penalty": null}')
    defaults = open_checkpoint(str(model)).defaults
    assert (defaults.temperature, defaults.top_p, defaults.repetition_penalty) == (0.6, 0.9, 1.1)


def test_transformers_4_config_means_the_same(tiny_model: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    rope = config.pop("rope_parameters")
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
    new = LlamaShape.from_config({**config, "rope_parameters": {**scaling, "rope_theta": 500.0}}, "new")
    old = LlamaShape.from_config({**config, "rope_scaling": scaling, "rope_theta": 500.0}, "old")
    assert new == old
    plain = LlamaShape.from_config({**config, "rope_scaling": None, "rope_theta": rope["rope_theta"]}, "plain")
    assert plain == LlamaShape.from_config({**config, "rope_parameters": rope}, "plain")


@pytest.mark.parametrize("settings", [True, False], ids=["with", "without"])
def test_the_tokenizer_is_tokenizer_json_with_or_without_its_settings(model: Path, settings: bool) -> None:
    if not settings:
        (model / "tokenizer_config.json").unlink()
    plain = Tokenizer.from_file(str(model / "tokenizer.json"))
    text = "ana: Hello, World!  <laugh> It's 5 o'clock..."
    assert open_checkpoint(str(model)).encode(text) == plain.encode(text, add_special_tokens=False).ids


def test_a_vocabulary_in_a_file_of_its_own_is_read_with_transformers(model: Path) -> None:
    parts = json.loads((model / "tokenizer.json").read_text())["model"]
    (model / "tokenizer.json").unlink()
    write_json(model / "vocab.json", parts["vocab"])
    (model / "merges.txt").write_text("#version: 0.2\n")
    write_json(model / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|begin_of_text|>"})
    checkpoint = open_checkpoint(str(model))
    assert checkpoint.encode("ana:Hello,") == [ord(character) - 32 for character in "ana:Hello,"]
    assert checkpoint.layout.begin_of_text == BEGIN_OF_TEXT


@pytest.mark.parametrize("spec", [TinyLlama(), TinyLlama(tied=False, shard_size="2MB", seed=4)], ids=["one", "shards"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_what_the_files_hold(
    llama_folder: Callable[[TinyLlama], Path], spec: TinyLlama, dtype: torch.dtype
) -> None:
    folder = llama_folder(spec)
    checkpoint = open_checkpoint(str(folder))
    steps: list[float] = []
    weights = load_weights(folder, checkpoint.shape, checkpoint.layout, CPU, dtype, steps.append)
    stored: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        stored |= load_file(path)
    assert torch.equal(weights.embed, stored["model.embed_tokens.weight"].to(dtype))
    assert torch.equal(weights.layers[1].qkv[64:96], stored["model.layers.1.self_attn.k_proj.weight"].to(dtype))
    assert torch.equal(weights.layers[0].gate_up[96:], stored["model.layers.0.mlp.up_proj.weight"].to(dtype))
    head = stored.get("lm_head.weight", stored["model.embed_tokens.weight"]).to(dtype)
    assert torch.equal(weights.lm_head, head)
    assert torch.equal(weights.head[3, 5], head[CUSTOM_BASE + 10 + 3 * 4096 + 5])
    assert torch.equal(weights.head[:, 4096], head[CUSTOM_BASE + 2].expand(7, -1))
    assert weights.parameters == sum(tensor.numel() for tensor in stored.values())
    assert steps == sorted(steps)
    assert steps[-1] == 1.0


def test_the_stored_type_is_kept(llama_folder: Callable[[TinyLlama], Path]) -> None:
    assert stored_dtype(llama_folder(TinyLlama())) == torch.float32
    assert stored_dtype(llama_folder(TinyLlama(dtype=torch.bfloat16, seed=3))) == torch.bfloat16


def test_a_tied_head_stays_tied_in_another_type(tiny_model: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_model))
    weights = load_weights(tiny_model, checkpoint.shape, checkpoint.layout, CPU, torch.float32)
    halves = weights.to(torch.bfloat16)
    assert halves.lm_head.data_ptr() == halves.embed.data_ptr()
    assert halves.parameters == weights.parameters


def test_a_codec_without_its_encoder_is_whole(codec: Path) -> None:
    state = torch.load(codec / "pytorch_model.bin")
    decoder = {name: tensor for name, tensor in state.items() if not name.startswith("encoder.")}
    (codec / "pytorch_model.bin").unlink()
    save_file(decoder, codec / "model.safetensors")
    codes = [torch.arange(count)[None] for count in (3, 6, 12)]
    model = load_codec(str(codec))
    assert not model.training
    torch.save(state, codec / "pytorch_model.bin")
    (codec / "model.safetensors").unlink()
    fresh = load_codec(str(codec))
    with torch.inference_mode():
        assert torch.equal(model.quantizer.from_codes(codes), fresh.quantizer.from_codes(codes))


# ---- the user's text


TEXTS = [
    "plain words",
    "<custom_token_3> <custom_token_10>",
    "<|eot_id|><|begin_of_text|>",
    "<custom_<custom_token_3>token_3>",
    "a\x00b\x01c",
    "🙂 👩‍👩‍👧 ｆｕｌｌｗｉｄｔｈ ＜custom_token_3＞",
    "word " * 819,
    "<custom_token_3>" * 256,
    "x" * 4096,
]


def test_a_checkpoint_says_how_much_it_speaks_at_once(model: Path) -> None:
    assert open_checkpoint(str(model)).chunk_chars == 280
    edit_json(model / "config.json", chunk_chars=140)
    assert open_checkpoint(str(model)).chunk_chars == 140


@pytest.mark.parametrize("special", [True, False], ids=["special", "not-special"])
def test_a_users_text_puts_no_control_ids_into_a_prompt(model: Path, special: bool) -> None:
    write_tokenizer(model, special=special)
    checkpoint = open_checkpoint(str(model))
    for text in TEXTS:
        for piece in chunks(text):
            ids = checkpoint.encode(voice_prompt("ana", piece.text))
            assert not CONTROL_IDS & set(ids), text[:40]
            prompt = checkpoint.layout.prompt(ids)
            assert prompt[:2] == [CUSTOM_BASE + 3, 120]
            assert prompt[2:-4] == ids
            assert prompt[-4:] == [121, CUSTOM_BASE + 4, CUSTOM_BASE + 5, CUSTOM_BASE + 1]


def test_lone_surrogates_do_not_reach_the_tokenizer(model: Path) -> None:
    checkpoint = open_checkpoint(str(model))
    for piece in chunks("lone \ud83d and \udc4d surrogates, and \udcff"):
        assert checkpoint.encode(voice_prompt("ana", piece.text))


def test_special_tokens_are_spelled_out_when_they_are_in_a_text(model: Path) -> None:
    checkpoint = open_checkpoint(str(model))
    assert checkpoint.encode("<|eot_id|>") == [ord(c) - 32 for c in "<|eot_id|>"]


# ---- what is wrong with a model


def edited(**changes: Any) -> Fault:
    return lambda folder: edit_json(folder / "config.json", **changes)


def without(name: str) -> Fault:
    return lambda folder: (folder / name).unlink()


def holding(name: str, content: bytes) -> Fault:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def truncated(name: str) -> Fault:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def retensored(**changes: torch.Tensor | None) -> Fault:
    """Replaces or (None) removes tensors of model.safetensors; __ stands for a dot."""

    def write(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        for name, tensor in changes.items():
            tensors.pop(name.replace("__", "."), None)
            if tensor is not None:
                tensors[name.replace("__", ".")] = tensor
        save_file(tensors, folder / "model.safetensors")

    return write


def untokenized(token: str) -> Fault:
    return lambda folder: write_tokenizer(folder, without=frozenset([token]))


def vocabulary_larger_than_the_network(folder: Path) -> None:
    """A tokenizer whose letters have ids that the embedding does not have."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["h"] = 50_000
    write_json(path, tokenizer)


MODEL_FAULTS: dict[str, tuple[Fault, str]] = {
    "no config": (without("config.json"), r"config\.json"),
    "config is no JSON": (holding("config.json", b"{oops"), r"config\.json"),
    "config is no text": (holding("config.json", b"\xff\xfe\x00"), r"config\.json"),
    "config is a list": (holding("config.json", b"[]"), r"config\.json"),
    "not a llama": (edited(model_type="mistral"), "mistral"),
    "config without a field": (edited(num_hidden_layers=None), "num_hidden_layers"),
    "config with a word for a number": (edited(hidden_size="wide"), r"hidden_size|config\.json"),
    "no heads": (edited(num_attention_heads=0), r"num_attention_heads|config\.json"),
    "heads that do not group": (edited(num_attention_heads=2, num_key_value_heads=3), r"key_value|config\.json|k_proj"),
    "unknown rope": (edited(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}), "yarn"),
    "llama3 rope without its numbers": (
        edited(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4}),
        r"factor|config\.json",
    ),
    "biases that would be left out": (edited(attention_bias=True), r"bias|config\.json"),
    "another activation": (edited(hidden_act="gelu"), r"gelu|config\.json"),
    "quantized": (edited(quantization_config={"quant_method": "fp8"}), r"quanti|config\.json"),
    "voices are no list": (edited(voices="ana"), r"config\.json.*voices"),
    "voices are empty": (edited(voices=[]), r"config\.json.*voices"),
    "chunks of no length": (edited(chunk_chars=0), r"config\.json.*chunk_chars"),
    "chunks of a word": (edited(chunk_chars="long"), r"config\.json.*chunk_chars"),
    "no tokenizer": (without("tokenizer.json"), r"tokenizer\.json"),
    "tokenizer is no JSON": (holding("tokenizer.json", b"{oops"), "tokenizer"),
    "tokenizer is another JSON": (holding("tokenizer.json", b"{}"), "tokenizer"),
    "tokenizer settings are no JSON": (holding("tokenizer_config.json", b"{oops"), "tokenizer"),
    "no end of turn": (untokenized("<|eot_id|>"), "eot_id"),
    "no custom tokens": (untokenized("<custom_token_10>"), "custom_token_10"),
    "no last custom token": (untokenized("<custom_token_28681>"), "custom_token_28681"),
    "a gap in the custom tokens": (untokenized("<custom_token_777>"), "custom_token_777|consecutive"),
    "vocabulary too small": (edited(vocab_size=28_000), "28000"),
    "letters outside of the vocabulary": (vocabulary_larger_than_the_network, "tokenizer|vocab"),
    "generation settings are no JSON": (holding("generation_config.json", b"{oops"), r"generation_config\.json"),
    "generation settings with a word": (
        holding("generation_config.json", b'{"top_p": "most"}'),
        r"generation_config\.json",
    ),
    "generation settings with a list": (
        holding("generation_config.json", b'{"top_p": []}'),
        r"generation_config\.json",
    ),
    "no weights": (without("model.safetensors"), r"model\.safetensors"),
    "weights cut short": (truncated("model.safetensors"), r"model\.safetensors"),
    "weights are empty": (holding("model.safetensors", b""), r"model\.safetensors"),
    "weights are nonsense": (holding("model.safetensors", b"\xff" * 4096), r"model\.safetensors"),
    "a tensor is missing": (retensored(model__layers__1__mlp__down_proj__weight=None), r"layers\.1\.mlp\.down_proj"),
    "no embedding": (retensored(model__embed_tokens__weight=None), r"embed_tokens"),
    "a tensor has another shape": (retensored(model__norm__weight=torch.ones(63)), r"model\.norm\.weight.*63"),
    "untied without a head": (edited(tie_word_embeddings=False), r"lm_head"),
}


@pytest.mark.parametrize(("fault", "named"), MODEL_FAULTS.values(), ids=MODEL_FAULTS)
def test_a_model_that_is_wrong(model: Path, run: Callable[..., ModelRunner], fault: Fault, named: str) -> None:
    fault(model)
    with pytest.raises(CheckpointError, match=named):
        run(model)


SHARD_FAULTS: dict[str, tuple[Fault, str]] = {
    "a shard is missing": (without("model-00002-of-00003.safetensors"), "model-00002-of-00003"),
    "a shard is cut short": (truncated("model-00002-of-00003.safetensors"), "model-00002-of-00003"),
    "the index is no JSON": (holding("model.safetensors.index.json", b"{oops"), r"index\.json"),
    "the index has no map": (holding("model.safetensors.index.json", b"{}"), r"index\.json"),
    "the index is a list": (holding("model.safetensors.index.json", b"[]"), r"index\.json"),
    "the index maps to numbers": (holding("model.safetensors.index.json", b'{"weight_map": {"x": 1}}'), r"index\.json"),
    "the index names nothing": (holding("model.safetensors.index.json", b'{"weight_map": {}}'), "embed_tokens|index"),
}


@pytest.mark.parametrize(("fault", "named"), SHARD_FAULTS.values(), ids=SHARD_FAULTS)
def test_a_sharded_model_that_is_wrong(
    sharded: Path, run: Callable[..., ModelRunner], fault: Fault, named: str
) -> None:
    fault(sharded)
    with pytest.raises(CheckpointError, match=named):
        run(sharded)


@pytest.mark.parametrize("escape", ["../../outside.safetensors", "/{outside}", "sub/../../outside.safetensors", ".."])
def test_an_index_cannot_name_files_outside_of_its_folder(sharded: Path, escape: str) -> None:
    checkpoint = open_checkpoint(str(sharded))
    outside = sharded.parent / "outside.safetensors"
    shutil.copy(sharded / "model-00001-of-00003.safetensors", outside)
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    first = "model-00001-of-00003.safetensors"
    name = escape.format(outside=str(outside).lstrip("/"))
    index["weight_map"] = {key: name if shard == first else shard for key, shard in index["weight_map"].items()}
    write_json(sharded / "model.safetensors.index.json", index)
    with pytest.raises(CheckpointError, match=r"outside|missing|index"):
        load_weights(sharded, checkpoint.shape, checkpoint.layout, CPU, torch.float32)


# ---- what is wrong with a codec


class Dangerous:
    """Unpickling this runs a command."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_codec_pickle_with_code_in_it_is_refused_and_not_run(codec: Path, tmp_path: Path) -> None:
    for protocol in (2, 4):
        trace = tmp_path / f"ran-{protocol}"
        (codec / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Dangerous(trace)}, protocol=protocol))
        with pytest.raises(CheckpointError, match="codec"):
            load_codec(str(codec))
        assert not trace.exists()
    torch.save({"x": Dangerous(tmp_path / "ran-zip")}, codec / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="codec"):
        load_codec(str(codec))
    assert not (tmp_path / "ran-zip").exists()


def saved(content: Any) -> Fault:
    return lambda folder: torch.save(content, folder / "pytorch_model.bin")


def restated(change: Callable[[dict[str, torch.Tensor]], object]) -> Fault:
    def write(folder: Path) -> None:
        state = torch.load(folder / "pytorch_model.bin")
        change(state)
        torch.save(state, folder / "pytorch_model.bin")

    return write


CODEC_FAULTS: dict[str, Fault] = {
    "no config": without("config.json"),
    "config is no JSON": holding("config.json", b"{oops"),
    "config is a list": holding("config.json", b"[]"),
    "config with a field that SNAC does not know": edited(flavour="vanilla"),
    "config with a word for a number": edited(decoder_dim="wide"),
    "config with a number for a list": edited(decoder_rates=8),
    "a wider decoder": edited(decoder_dim=64),
    "fewer blocks": edited(decoder_rates=[8, 8, 8]),
    "no weights": without("pytorch_model.bin"),
    "weights are empty": holding("pytorch_model.bin", b""),
    "weights are nonsense": holding("pytorch_model.bin", b"\xff" * 4096),
    "weights are a page of the web": holding("pytorch_model.bin", b"<!doctype html><html>not found</html>"),
    "weights cut short": truncated("pytorch_model.bin"),
    "weights are a list": saved([torch.ones(3)]),
    "weights are numbers": saved({"decoder": 3}),
    "weights of a tensor are missing": restated(lambda state: state.pop("decoder.model.0.bias")),
    "weights of a tensor too many": restated(lambda state: state.update(extra=torch.ones(1))),
    "a tensor has another shape": restated(lambda state: state.update({"decoder.model.0.bias": torch.ones(3)})),
    "safetensors are nonsense": holding("model.safetensors", b"\xff" * 4096),
}


@pytest.mark.parametrize("fault", CODEC_FAULTS.values(), ids=CODEC_FAULTS)
def test_a_codec_that_is_wrong(codec: Path, fault: Fault) -> None:
    fault(codec)
    with pytest.raises(CheckpointError, match="codec"):
        snac_layers(load_codec(str(codec)), str(codec))


def test_a_codec_at_another_sampling_rate_is_refused(codec: Path) -> None:
    edit_json(codec / "config.json", sampling_rate=32_000)
    with pytest.raises(CheckpointError, match=r"32000|sampling"):
        snac_layers(load_codec(str(codec)), str(codec))


# ---- sources that are no folder


SOURCES = [
    "no-such-folder",
    "./no/such/folder",
    "./folder",
    "../folder",
    "/no/such/folder",
    "~/no/such/folder",
    "~nobody-has-this-name/folder",
    "",
    ".",
    "a/b/c",
    "owner/name..with..dots",
    "owner/-name",
    "owner/" + "n" * 200,
    "nul\0byte",
    "x" * 5000,
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: repr(source)[:30])
def test_a_source_that_is_nowhere(offline: None, source: str) -> None:
    with pytest.raises(CheckpointError):
        open_checkpoint(source)
    with pytest.raises(CheckpointError):
        load_codec(source)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What HF_HUB_OFFLINE=1 and an empty cache do; both are read when huggingface_hub is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def test_a_hub_id_without_a_network_is_named(offline: None) -> None:
    with pytest.raises(CheckpointError, match="canopylabs/orpheus-3b"):
        open_checkpoint("canopylabs/orpheus-3b-0.1-ft", revision="main")
    with pytest.raises(CheckpointError, match="hubertsiuzdak/snac_24khz"):
        load_codec("hubertsiuzdak/snac_24khz")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(name: str, folder: Path) -> None:
    """Puts a checkpoint into the hub's cache as a download does: a snapshot of links to blobs, and what main is."""
    repository = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    for made in (snapshot, blobs, repository / "refs"):
        made.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / str(number))


def test_a_checkpoint_of_the_hub_knows_its_commit(offline: None, tiny_model: Path, codec: Path) -> None:
    cached("acme/voice", tiny_model)
    cached("acme/codec", codec)
    for revision in (None, "main", COMMIT):
        checkpoint = open_checkpoint("acme/voice", revision)
        assert (checkpoint.name, checkpoint.commit) == ("acme/voice", COMMIT)
        assert commit_of("acme/codec", codec_folder("acme/codec", revision)) == COMMIT
    load_codec("acme/codec")
    with pytest.raises(CheckpointError, match="acme/voice"):
        open_checkpoint("acme/voice", "0" * 40)


def test_a_folder_has_no_commit_whatever_its_name(offline: None, tiny_model: Path) -> None:
    named = Path.cwd() / COMMIT
    named.symlink_to(tiny_model, target_is_directory=True)
    assert open_checkpoint(str(named)).commit is None


def test_a_model_as_a_pickle_is_not_even_looked_at(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"x": Dangerous(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        stored_dtype(folder)
    assert not (tmp_path / "ran").exists()


def test_a_model_file_instead_of_a_folder_is_an_error(offline: None, tiny_model: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(str(tiny_model / "model.safetensors"))


# ---- dummies


def test_the_shape_of_orpheus_3b() -> None:
    checkpoint = dummy_checkpoint("orpheus-3b")
    shape = checkpoint.shape
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (28, 3072, 24, 8, 128)
    assert (shape.intermediate, shape.vocab, shape.eps, shape.tied) == (8192, 156_940, 1e-5, True)
    assert (shape.rope["rope_theta"], shape.rope["rope_type"], shape.rope["factor"]) == (500_000.0, "llama3", 32.0)
    assert checkpoint.folder is None
    assert checkpoint.voices[0] == "tara"
    layer = 3072 * (24 + 16) * 128 + 24 * 128 * 3072 + 3 * 3072 * 8192 + 2 * 3072
    assert shape.layers * layer == pytest.approx(2.82e9, rel=0.01)


def test_dummy_prompts_are_legal_and_about_as_long_as_real_ones() -> None:
    checkpoint = dummy_checkpoint("orpheus-3b")
    for text in ("Hello there, how are you?", "你好", "", "🙂" * 10):
        ids = checkpoint.encode(text)
        assert len(ids) == -(-len(text) // 4)
        assert all(0 <= token < 128_000 for token in ids)
        assert checkpoint.encode(text) == ids


def test_a_small_dummy_runs(monkeypatch: pytest.MonkeyPatch, kernel_cache: Path) -> None:
    small = {
        **ckpt.DUMMY_MODELS["orpheus-3b"], "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 1,
        "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 32,
    }  # fmt: skip
    tiny = {**ckpt.DUMMY_CODECS["snac-24khz"], "encoder_dim": 8, "decoder_dim": 32}
    monkeypatch.setitem(ckpt.DUMMY_MODELS, "tiny", small)
    monkeypatch.setitem(ckpt.DUMMY_CODECS, "tiny-codec", tiny)
    config = EngineConfig(
        model="tiny", codec="tiny-codec", load_format="dummy", max_concurrency=1, cache=str(kernel_cache)
    )
    runner = ModelRunner(config)
    assert (runner.info.model, runner.info.codec, runner.info.dtype) == ("tiny", "tiny-codec", "bfloat16")
    assert runner.info.parameters == sum(
        [156_940 * 32, 3 * 32, 96 * 32 + 32 * 32 + 3 * 32 * 32]
    )  # embedding, norms, one layer


def test_random_weights_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = LlamaShape(1, 32, 1, 1, 32, 32, 156_940, 1e-5, {"rope_type": "default", "rope_theta": 1e4}, 4096, False)
    layout = dummy_checkpoint("orpheus-3b").layout
    first, again, other = (random_weights(shape, layout, CPU, torch.float32, seed) for seed in (1, 1, 2))
    assert torch.equal(first.lm_head, again.lm_head)
    assert not torch.equal(first.lm_head, other.lm_head)
    assert torch.equal(first.norm, torch.ones(32))


def test_unknown_dummies_list_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="orpheus-3b"):
        dummy_checkpoint("orpheus-7b")
    with pytest.raises(CheckpointError, match="snac-24khz"):
        dummy_codec("snac-44khz")
