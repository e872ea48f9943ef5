"""The demo voice's tokenizer: Orpheus' token layout with base 128 in place of 128,256, one token a character.

Text is decomposed, stripped of accents, lower-cased, and characters outside the alphabet are dropped. Only the control
tokens are `added_tokens`; the audio tokens are plain vocabulary, so no text can ever spell one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 .,?!'-:;\"()$%&<>_"
BASE = 128
BEGIN_OF_TEXT = 120
END_OF_TEXT = 121
START_OF_SPEECH = BASE + 1
END_OF_SPEECH = BASE + 2
START_OF_HUMAN = BASE + 3
END_OF_HUMAN = BASE + 4
START_OF_AI = BASE + 5
PAD = BASE + 7
AUDIO = BASE + 10
SLOTS = 7
CODES = 4096
USED = AUDIO + SLOTS * CODES
VOCABULARY = 28864  # USED rounded up to a multiple of 64: matrix units and vocabulary sharding like it
CONTEXT = 4096

# What the alphabet spells otherwise; NFKD has already taken care of ellipses, ligatures and full-width forms.
SPELLINGS = (
    ("[\u2018\u2019\u201b\u02bc\u2032\u00b4`]", "'"),
    ("[\u201c\u201d\u201e\u00ab\u00bb]", '"'),
    ("[\u2010-\u2015\u2212]", "-"),
    (r"\s+", " "),
)


def custom(number: int) -> str:
    """The string of Orpheus' <custom_token_N>, whose id is BASE + N."""
    return f"<custom_token_{number}>"


def vocabulary() -> dict[str, int]:
    """Every token's string and id, with no holes below USED."""
    words = {index: f"<|reserved_{index}|>" for index in range(BASE)}
    words |= dict(enumerate(ALPHABET))
    words |= {BEGIN_OF_TEXT: "<|begin_of_text|>", END_OF_TEXT: "<|eot_id|>"}
    words |= {BASE + number: custom(number) for number in range(USED - BASE)}
    return {word: index for index, word in words.items()}


def build() -> Tokenizer:
    """The tokenizer itself. By default it puts <|begin_of_text|> first, as Llama 3's does."""
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary(), merges=[]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
        + [normalizers.Replace(Regex(pattern), with_) for pattern, with_ in SPELLINGS]
        + [normalizers.Replace(Regex(f"[^{_escaped(ALPHABET)}]"), "")]
    )
    tokenizer.decoder = decoders.Fuse()
    control = ["<|begin_of_text|>", "<|eot_id|>", *(custom(number) for number in range(AUDIO - BASE))]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in control])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", BEGIN_OF_TEXT)]
    )
    return tokenizer


def _escaped(characters: str) -> str:
    return "".join("\\" + character if character in "\\-[]^&" else character for character in characters)


def for_text(tokenizer: Tokenizer) -> Tokenizer:
    """Make `tokenizer` read control tokens inside a text as ordinary characters, as a server must."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, characters only."""
    return [item.ids for item in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def prompt(text: Sequence[int]) -> list[int]:
    """The prompt around the ids of a "{voice}: {text}", up to and including start of speech."""
    return [START_OF_HUMAN, BEGIN_OF_TEXT, *text, END_OF_TEXT, END_OF_HUMAN, START_OF_AI, START_OF_SPEECH]


def write(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(build().to_str(pretty=False), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": custom(END_OF_SPEECH - BASE),
        "pad_token": custom(PAD - BASE),
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Write the tokenizer's two files into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
