"""Which voice a name means: the checkpoint's own names, and OpenAI's thirteen mapped onto them."""

from collections.abc import Sequence
from typing import Final

from litestar import get
from litestar.di import NamedDependency

from api.context import AppContext
from engine import InvalidRequest
from schemas.models import Voice, VoiceList

# Orpheus' voices by how they sound, the most natural first: the substitutes when a preferred voice is missing.
_FEMALE: Final = ("tara", "leah", "jess", "mia", "zoe")
_MALE: Final = ("leo", "dan", "zac")

OPENAI_VOICES: Final = {
    "alloy": ("tara", _FEMALE),
    "ash": ("dan", _MALE),
    "ballad": ("leo", _MALE),
    "cedar": ("zac", _MALE),
    "coral": ("jess", _FEMALE),
    "echo": ("leo", _MALE),
    "fable": ("zac", _MALE),
    "marin": ("mia", _FEMALE),
    "nova": ("leah", _FEMALE),
    "onyx": ("dan", _MALE),
    "sage": ("mia", _FEMALE),
    "shimmer": ("zoe", _FEMALE),
    "verse": ("leo", _MALE),
}
"""OpenAI's name -> the Orpheus voice that stands in, and whose likes replace it."""


def resolve_voice(name: str, voices: Sequence[str]) -> str:
    """The checkpoint's voice that `name` means; raises InvalidRequest that lists the choice.

    A voice of the checkpoint comes before an OpenAI name. The answer depends on `name` and `voices` only.
    """
    own = {voice.lower(): voice for voice in voices}
    wanted = name.strip().lower()
    if wanted in own:
        return own[wanted]
    if wanted not in OPENAI_VOICES:
        choice = ", ".join([*voices, *(voice for voice in OPENAI_VOICES if voice not in own)])
        raise InvalidRequest("voice", f"Invalid 'voice': this model does not have it. The voices are: {choice}.")
    preferred, alike = OPENAI_VOICES[wanted]
    for candidate in (preferred, *alike):
        if candidate in own:
            return own[candidate]
    return voices[list(OPENAI_VOICES).index(wanted) % len(voices)]


@get("/v1/audio/voices")
async def list_voices(context: NamedDependency[AppContext]) -> VoiceList:
    """The checkpoint's own voices."""
    return VoiceList(voices=[Voice(id=voice, name=voice) for voice in context.engine.info.voices])
