"""tokenizer.json read alone gives the ids that transformers gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from engine.config import DEMO_CHECKPOINT
from engine.model.tokenizer import open_tokenizer
from tests.engine.spoken import PLAIN, SPOKEN
from tests.tiny import edit_json, write_json, write_tokenizer

TEXTS = [*PLAIN, *(text for pairs in SPOKEN.values() for pair in pairs for text in pair)]
HOSTILE = [
    "", " ", "<|eot_id|>", "a<|begin_of_text|>b", "<custom_token_5><custom_token_10>", "<laugh> Hm.", "\0\ufeff\u200d",
    "e\u0301 \u00e9 \u1e9b\u0323 🧑‍🚀 \U0010ffff", "a" * 5000,
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def test_the_demo_voice_is_read_as_by_transformers() -> None:
    folder = DEMO_CHECKPOINT / "lm"
    theirs = AutoTokenizer.from_pretrained(folder)
    theirs.backend_tokenizer.encode_special_tokens = True
    mine, begin = open_tokenizer(folder)
    assert begin == theirs.bos_token_id == 120
    assert mine.get_vocab() == theirs.get_vocab()
    for text in TEXTS + HOSTILE:
        expected = theirs.backend_tokenizer.encode(f"tara: {text}", add_special_tokens=False).ids
        assert mine.encode(f"tara: {text}", add_special_tokens=False).ids == expected, text[:40]


def test_a_prompt_is_neither_padded_nor_cut(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer.json").read_text())
    padding = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 3, "pad_type_id": 0,
        "pad_token": "#",
    }  # fmt: skip
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    write_json(folder / "tokenizer.json", {**settings, "padding": padding, "truncation": cut})
    mine, _ = open_tokenizer(folder)
    assert mine.encode("ana: Hello.").ids == [ord(c) - 32 for c in "ana: Hello."]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("<|begin_of_text|>", 120),
        ({"content": "<|eot_id|>", "special": True}, 121),
        (None, None),
        ("<s>", None),
    ],
)
def test_the_begin_of_text_is_the_folders(folder: Path, named: object, expected: int | None) -> None:
    edit_json(folder / "tokenizer_config.json", bos_token=named)
    mine, begin = open_tokenizer(folder)
    assert begin == expected
    assert mine.token_to_id("<s>") is None


def test_the_begin_of_text_is_a_control_token_without_its_flag(folder: Path) -> None:
    write_tokenizer(folder, special=False)
    mine, _ = open_tokenizer(folder)
    text = "a<|begin_of_text|>"
    assert mine.encode(text).ids == [ord(c) - 32 for c in text]
