"""Orpheus' token layout, prompts, and the way from audio tokens to SNAC's codebooks. Pure arithmetic on ids.

A frame is 7 codes, one a slot, 85.33 ms of audio; slot k's code c is the token `first_audio + 4096 * k + c`.
Source of the layout: canopyai/Orpheus-TTS (engine_class.py, decoder.py); the ids come from the checkpoint's tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from engine.errors import CheckpointError

FRAME_TOKENS: Final = 7
CODEBOOK_SIZE: Final = 4096
AUDIO_TOKENS: Final = FRAME_TOKENS * CODEBOOK_SIZE
FIRST_AUDIO_NUMBER: Final = 10  # <custom_token_10> is code 0 of slot 0

# Which slots of a frame belong to each of the three codebooks, coarse to fine.
CODEBOOK_SLOTS: Final = ((0,), (1, 4), (2, 3, 5, 6))

_CONTROL_TEXT = re.compile(r"<custom_token_\d+>|<\|[^|<>]*\|>")


@dataclass(frozen=True)
class TokenLayout:
    """Ids of the tokens that frame a prompt, of the end of speech, and of the first audio code."""

    begin_of_text: int
    end_of_turn: int
    start_of_human: int
    end_of_human: int
    start_of_ai: int
    start_of_speech: int
    end_of_speech: int
    first_audio: int

    @classmethod
    def from_vocabulary(
        cls, lookup: Callable[[str], int | None], begin_of_text: int | None, vocab_size: int
    ) -> TokenLayout:
        """Reads the layout from a tokenizer; `lookup` gives a token's id or None. CheckpointError: no Orpheus."""

        def token(text: str) -> int:
            found = lookup(text)
            if found is None:
                raise CheckpointError(f"the tokenizer has no {text}: this is not an Orpheus checkpoint")
            return inside(text, found)

        def inside(text: str, found: int) -> int:
            if not 0 <= found < vocab_size:
                raise CheckpointError(f"{text} is token {found}, outside of the model's vocabulary of {vocab_size}")
            return found

        def custom(number: int) -> int:
            return token(f"<custom_token_{number}>")

        first = custom(FIRST_AUDIO_NUMBER)
        numbers = range(FIRST_AUDIO_NUMBER, FIRST_AUDIO_NUMBER + AUDIO_TOKENS)
        astray = next((number for number in numbers if custom(number) - number != first - FIRST_AUDIO_NUMBER), None)
        if astray is not None:
            raise CheckpointError(f"the audio tokens are not consecutive: <custom_token_{astray}> is out of place")
        return cls(
            begin_of_text=token("<|begin_of_text|>") if begin_of_text is None else inside("bos", begin_of_text),
            end_of_turn=token("<|eot_id|>"),
            start_of_human=custom(3),
            end_of_human=custom(4),
            start_of_ai=custom(5),
            start_of_speech=custom(1),
            end_of_speech=custom(2),
            first_audio=first,
        )

    def prompt(self, text_ids: Sequence[int]) -> list[int]:
        """The ids of one turn: the human's text, then the start of the model's speech."""
        return [
            self.start_of_human,
            self.begin_of_text,
            *text_ids,
            self.end_of_turn,
            self.end_of_human,
            self.start_of_ai,
            self.start_of_speech,
        ]

    def codes(self, tokens: Sequence[int]) -> list[list[int]]:
        """Audio tokens -> whole frames of 7 codes. ValueError: a token its slot does not allow, or a partial frame."""
        if len(tokens) % FRAME_TOKENS:
            raise ValueError(f"{len(tokens)} tokens are not whole frames")
        frames: list[list[int]] = []
        for i, token in enumerate(tokens):
            slot = i % FRAME_TOKENS
            code = token - self.first_audio - slot * CODEBOOK_SIZE
            if not 0 <= code < CODEBOOK_SIZE:
                raise ValueError(f"token {token} is no code of slot {slot}")
            if slot == 0:
                frames.append([])
            frames[-1].append(code)
        return frames


def codebooks(frames: Sequence[Sequence[int]]) -> list[list[int]]:
    """Frames of 7 codes -> SNAC's three code sequences, of 1, 2 and 4 codes a frame."""
    return [[frame[slot] for frame in frames for slot in slots] for slots in CODEBOOK_SLOTS]


def strip_control_text(text: str) -> str:
    """Removes spellings of control tokens: a user's text can neither steer the prompt nor be read out as noise."""
    return _CONTROL_TEXT.sub(" ", text)


def voice_prompt(voice: str, text: str) -> str:
    """The form the model was trained on."""
    return f"{voice}: {text}"
