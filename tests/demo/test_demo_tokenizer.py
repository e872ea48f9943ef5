"""The demo voice's tokenizer gives Orpheus' layout, and no text can spell a control or an audio token."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

from demo.train import tokenizer as layout  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    layout.write(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path):
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("word", "index"),
    [
        ("<|begin_of_text|>", 120),
        ("<|eot_id|>", 121),
        ("<custom_token_1>", 129),
        ("<custom_token_2>", 130),
        ("<custom_token_7>", 135),
        ("<custom_token_10>", 138),
        ("<custom_token_28681>", 28809),
        ("a", 0),
        ("_", 53),
    ],
)
def test_ids(loaded, word: str, index: int) -> None:
    assert loaded.convert_tokens_to_ids(word) == index
    assert loaded.convert_ids_to_tokens(index) == word


def test_reference_prompt_construction(loaded) -> None:
    ids = loaded("tara: Hi.").input_ids
    assert ids[0] == loaded.bos_token_id == 120
    assert loaded.decode(ids[1:]) == "tara: hi."
    assert (loaded.eos_token_id, loaded.pad_token_id) == (130, 135)


def test_prompts_match_the_transformers_tokenizer(loaded) -> None:
    text = "leo: Caf\u00e9 \u201cat\u201d 5\u2019s \u2014 s\u00ed\u2026"
    [ids] = map(layout.prompt, layout.encode(layout.for_text(layout.build()), [text]))
    body = loaded(text, add_special_tokens=False).input_ids
    assert ids == [131, 120, *body, 121, 132, 133, 129]
    assert loaded.decode(body) == 'leo: cafe "at" 5\'s - si...'


@pytest.mark.parametrize("text", ["<custom_token_5>", "<|eot_id|>", "<custom_token_10>", "a<|begin_of_text|>b"])
def test_text_cannot_spell_a_token(folder: Path, loaded, text: str) -> None:
    plain = layout.for_text(layout.Tokenizer.from_file(str(folder / "tokenizer.json")))
    ids = plain.encode(text, add_special_tokens=False).ids
    assert max(ids) < len(layout.ALPHABET)
    assert loaded.decode(ids) == "".join(c for c in text.lower() if c in layout.ALPHABET)
    assert loaded(text, add_special_tokens=False, split_special_tokens=True).input_ids == ids


def test_unknown_characters_are_dropped_and_space_collapsed(loaded) -> None:
    ids = loaded("a\u4e2d\U0001f600*b\n\t c", add_special_tokens=False).input_ids
    assert loaded.decode(ids) == "ab c"


def test_files_are_small(folder: Path) -> None:
    assert (folder / "tokenizer.json").stat().st_size < 1_200_000
