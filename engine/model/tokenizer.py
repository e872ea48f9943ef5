"""A checkpoint's tokenizer.json as it is, read without transformers, whose import alone takes seconds.

Where vocabulary and merges lie in files of their own, as older checkpoints have them, transformers puts them together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from engine.errors import CheckpointError
from engine.model.reading import reading


def open_tokenizer(folder: Path) -> tuple[Tokenizer, int | None]:
    """The tokenizer, which reads every text as text, and the id of the begin-of-text token if the folder names one.

    CheckpointError when tokenizer.json is missing or damaged, or tokenizer_config.json is.
    """
    with reading(f"the tokenizer in {folder}"):
        tokenizer = _tokenizer(folder)
        begin = _begin_of_text(folder)
        number = None if begin is None else tokenizer.token_to_id(begin)
        if number is not None:
            # It is a control token even where tokenizer.json does not flag it.
            tokenizer.add_special_tokens([begin])
    # What a training run left in the file is not for prompts.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # A user's text is never parsed for control tokens.
    tokenizer.encode_special_tokens = True
    return tokenizer, number


def _tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if path.is_file():
        return Tokenizer.from_file(str(path))
    if not (folder / "vocab.json").is_file():
        raise CheckpointError(f"{path} is missing; download the checkpoint again")
    # Here, because most checkpoints need not wait for it.
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False).backend_tokenizer


def _begin_of_text(folder: Path) -> str | None:
    path = folder / "tokenizer_config.json"
    named: Any = json.loads(path.read_text(encoding="utf-8")).get("bos_token") if path.is_file() else None
    # Written as a string, or as an object with the token's flags.
    return named.get("content") if isinstance(named, dict) else named
