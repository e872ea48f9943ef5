"""Checks of the model's and the codec's files: present, whole, readable; or to be had from the hub."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any, Final

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import safe_open

from api.doctor.accelerator import Facts, available_memory
from api.doctor.findings import Finding, error, ok, warning
from api.settings import Settings
from api.voices import check_voices
from engine import ConfigError
from engine.config import DEMO_CHECKPOINT, is_commit

CODEC: Final = "hubertsiuzdak/snac_24khz"
HUB_SECONDS: Final = 20.0
_AGAIN: Final = "download it again"


def checkpoints(settings: Settings, facts: Facts) -> Iterator[Finding]:
    """The files, and what the process that opened them has to say."""
    if settings.load_format == "dummy":
        yield ok("model", f"{settings.model}: random weights of its shape")
        return
    demo = settings.model is None
    model = str(DEMO_CHECKPOINT / "lm") if settings.model is None else settings.model
    codec = settings.codec or (str(DEMO_CHECKPOINT / "codec") if demo else CODEC)
    whole = True
    for name, source, revision, check in (
        ("model", model, settings.revision, model_files),
        ("codec", codec, settings.codec_revision, codec_files),
    ):
        findings = list(_source(name, source, revision, check))
        whole = whole and findings[-1].status == "ok"
        yield from findings
    if whole:
        yield from _opened(settings, facts)


def _source(name: str, source: str, revision: str | None, check: Callable[[Path], str]) -> Iterator[Finding]:
    """One of the two: in a folder, in the cache, or on the hub."""
    folder = Path(source).expanduser()
    setting = "LYRE_MODEL" if name == "model" else "LYRE_CODEC"
    if not folder.is_dir():
        if folder.exists() or source.count("/") != 1 or source.startswith((".", "~", "/")):
            yield error(name, f"{source} is no folder", f"set {setting} to a folder or to a hub id such as {CODEC}")
            return
        cached = _cached(source, revision)
        if cached is None:
            yield _on_hub(name, source, revision)
            return
        folder = cached
        if not is_commit(revision):
            pin = f"set {'LYRE_REVISION' if name == 'model' else 'LYRE_CODEC_REVISION'}={folder.name}"
            yield warning(f"{name} revision", f"{source} is not pinned: the cache has commit {folder.name}", pin)
    try:
        yield ok(name, f"{source}: {check(folder)}")
    except Exception as problem:  # noqa: BLE001
        # This broad because parsers raise anything on a damaged file, and the other checks still count.
        yield error(name, f"{folder}: {type(problem).__name__}: {problem}"[:400], _AGAIN)


def _cached(source: str, revision: str | None) -> Path | None:
    try:
        return Path(snapshot_download(source, revision=revision, local_files_only=True))
    except Exception:  # noqa: BLE001
        # This broad because ids that cannot be right raise errors of several kinds; the hub says it better.
        return None


def _on_hub(name: str, source: str, revision: str | None) -> Finding:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if offline:
        return error(name, f"{source} is not in the cache, and HF_HUB_OFFLINE is set", "download it first, or unset it")
    try:
        size = _asked_hub(source, revision)
    except GatedRepoError:
        return error(
            name, f"{source} is gated", "accept its terms on the hub and set HF_TOKEN to a token that may read"
        )
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return error(name, f"{source} (revision {revision or 'main'}) is not on the hub", "or is private: set HF_TOKEN")
    except Exception as problem:  # noqa: BLE001
        # This broad because networks fail in every way.
        why = f"{type(problem).__name__}: {problem}"[:200]
        return error(
            name, f"{source} is not in the cache, and the hub does not answer ({why})", "download it elsewhere"
        )
    return warning(
        name, f"{source} is on the hub and not in the cache", f"the first start downloads {size / 1e9:.1f} GB"
    )


def _asked_hub(source: str, revision: str | None) -> int:
    """The size of what would be downloaded. Whatever the hub raises, or TimeoutError."""
    answer: list[int | BaseException] = []

    def ask() -> None:
        try:
            api = HfApi()
            api.auth_check(source)
            files = api.model_info(source, revision=revision, files_metadata=True).siblings or []
            answer.append(sum(file.size or 0 for file in files if file.rfilename.endswith((".safetensors", ".bin"))))
        except BaseException as problem:  # noqa: BLE001
            # This broad because it is raised again where it is waited for.
            answer.append(problem)

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_SECONDS)
    if not answer:
        raise TimeoutError(f"no answer within {HUB_SECONDS:g} s")
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return answer[0]


def model_files(folder: Path) -> str:
    """How much is there. Raises what any of the files raises, or FileNotFoundError for one that is missing."""
    _object(folder / "config.json")
    if not (folder / "vocab.json").is_file():
        _object(folder / "tokenizer.json")
    index = folder / "model.safetensors.index.json"
    names = sorted({Path(name).name for name in _object(index)["weight_map"].values()}) if index.is_file() else []
    shards = [folder / name for name in names or ["model.safetensors"]]
    tensors = 0
    for shard in shards:
        # It checks the header against the file's size.
        with safe_open(shard, framework="numpy") as opened:
            tensors += len(opened.keys())
    size = sum(shard.stat().st_size for shard in shards)
    memory = available_memory()
    left = "" if memory is None else f"; {memory / 2**30:.1f} GiB of memory are free"
    return f"{tensors} tensors in {len(shards)} file{'s' * (len(shards) > 1)}, {size / 2**30:.2f} GiB{left}"


def codec_files(folder: Path) -> str:
    """The same of a codec."""
    _object(folder / "config.json")
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if safe.is_file():
        with safe_open(safe, framework="numpy") as opened:
            return f"{len(opened.keys())} tensors"
    with pickled.open("rb") as opened:
        if not opened.read(1):
            raise ValueError("pytorch_model.bin is empty")
    return f"{pickled.stat().st_size / 2**20:.0f} MiB"


def _object(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"{path.name} holds no JSON object")
    return content


def _opened(settings: Settings, facts: Facts) -> Iterator[Finding]:
    for name in ("model", "codec"):
        if "error" in (fact := facts.get(name, {})):
            yield error(name, fact["error"], "the message says what is wrong with its files; or download it again")
    model = facts.get("model", {})
    if "voices" not in model:
        return
    try:
        check_voices(settings.voices, model["voices"])
    except ConfigError as problem:
        yield error("voices", problem.message, f"LYRE_VOICES may name {', '.join(model['voices'])}")
    else:
        yield ok("voices", ", ".join(model["voices"]))
    memory = available_memory()
    if memory is not None and model["weights"] > memory:
        sizes = f"{model['weights'] / 2**30:.1f} GiB of weights, {memory / 2**30:.1f} GiB of memory"
        yield warning("memory", sizes, "on a CPU this will not fit; close other programs or take a larger machine")
