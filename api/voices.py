"""Which voice a name means: the checkpoint's own names, the operator's, and those of OpenAI mapped onto them."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

from litestar.di import NamedDependency

from api.auth import require_list_key
from api.context import AppContext
from api.reading import read
from engine import ConfigError, InvalidRequest
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


# The voices of hosted Orpheus under names of its own.
_STAND_INS: Final = OPENAI_VOICES | {
    "autumn": ("tara", _FEMALE),
    "diana": ("leah", _FEMALE),
    "hannah": ("jess", _FEMALE),
    "austin": ("leo", _MALE),
    "daniel": ("dan", _MALE),
    "troy": ("zac", _MALE),
}


def resolve_voice(name: str, voices: Sequence[str], named: Mapping[str, str] | None = None) -> str:
    """The checkpoint's voice that `name` means; raises InvalidRequest that lists the choice.

    `named` are the operator's names, in lower case, and their voices. A voice of the checkpoint comes before them,
    and they before OpenAI's. The answer depends on the arguments only.
    """
    own = {voice.lower(): voice for voice in voices}
    wanted = name.strip().lower()
    if wanted in own:
        return own[wanted]
    if named and wanted in named:
        return own[named[wanted].lower()]
    if wanted not in _STAND_INS:
        choice = ", ".join(dict.fromkeys([*voices, *(named or ()), *OPENAI_VOICES]))
        raise InvalidRequest("voice", f"Invalid 'voice': this model does not have it. The voices are: {choice}.")
    preferred, alike = _STAND_INS[wanted]
    for candidate in (preferred, *alike):
        if candidate in own:
            return own[candidate]
    return voices[list(_STAND_INS).index(wanted) % len(voices)]


def check_voices(named: Mapping[str, str], voices: Sequence[str]) -> None:
    """Raise ConfigError unless each of the operator's names is a new one and means a voice of the checkpoint."""
    own = {voice.lower() for voice in voices}
    for name, target in named.items():
        if name in own:
            raise ConfigError("voices", f"{name!r} is a voice of the model itself and cannot mean another")
        if target.lower() not in own:
            near = difflib.get_close_matches(target, voices, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError("voices", f"{name!r} means {target!r}, but the voices are {', '.join(voices)}{hint}")


@read(["/v1/audio/voices", "/audio/voices"], guards=[require_list_key])
async def list_voices(context: NamedDependency[AppContext]) -> VoiceList:
    """The checkpoint's own voices and the operator's names; OpenAI's names work without being listed."""
    names = [*context.engine.info.voices, *context.settings.voices]
    return VoiceList(voices=[Voice(id=name, name=name) for name in names])
