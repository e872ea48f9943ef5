"""OpenAI's thirteen voices on any checkpoint."""

import pytest

from api.voices import OPENAI_VOICES, resolve_voice
from engine import InvalidRequest

DEMO = ["tara", "leo"]
ORPHEUS = ["tara", "leah", "jess", "leo", "dan", "mia", "zac", "zoe"]
THIRTEEN = [
    "alloy",
    "ash",
    "ballad",
    "coral",
    "echo",
    "fable",
    "onyx",
    "nova",
    "sage",
    "shimmer",
    "verse",
    "marin",
    "cedar",
]


def test_all_thirteen_are_known() -> None:
    assert sorted(OPENAI_VOICES) == sorted(THIRTEEN)


@pytest.mark.parametrize("name", THIRTEEN)
@pytest.mark.parametrize("voices", [DEMO, ORPHEUS, ["anna", "bob", "carl"], ["only"]])
def test_each_means_a_voice_of_the_checkpoint(name: str, voices: list[str]) -> None:
    assert resolve_voice(name, voices) in voices
    assert resolve_voice(name, voices) == resolve_voice(name, list(voices))


def test_the_demo_keeps_male_and_female_apart() -> None:
    assert {name for name in THIRTEEN if resolve_voice(name, DEMO) == "leo"} == {
        "ash",
        "ballad",
        "cedar",
        "echo",
        "fable",
        "onyx",
        "verse",
    }


def test_orpheus_uses_all_eight() -> None:
    assert {resolve_voice(name, ORPHEUS) for name in THIRTEEN} == set(ORPHEUS)


def test_unknown_names_spread_over_unknown_checkpoints() -> None:
    assert {resolve_voice(name, ["anna", "bob", "carl"]) for name in THIRTEEN} == {"anna", "bob", "carl"}


def test_own_voices_win_and_case_does_not_matter() -> None:
    assert resolve_voice("alloy", ["tara", "alloy"]) == "alloy"
    assert resolve_voice(" Tara ", DEMO) == "tara"
    assert resolve_voice("bella", ["Bella"]) == "Bella"


def test_an_unknown_voice_is_told_the_choice() -> None:
    with pytest.raises(InvalidRequest, match="tara, leo, alloy") as caught:
        resolve_voice("nobody", DEMO)
    assert caught.value.param == "voice"
