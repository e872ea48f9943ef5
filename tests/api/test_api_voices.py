"""OpenAI's thirteen voices, and the operator's names, on any checkpoint."""

from collections.abc import Callable

import httpx
import pytest

from api.voices import OPENAI_VOICES, check_voices, resolve_voice
from engine import ConfigError, InvalidRequest
from tests.api.fake_engine import FakeEngine
from tests.api.live_server import BODY, URL, LiveServer, eventually

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


NAMED = {"alloy": "Leo", "narrator": "tara"}


def test_the_operators_names_come_before_openais() -> None:
    assert resolve_voice("Alloy", DEMO, NAMED) == "leo"
    assert resolve_voice("narrator", DEMO, NAMED) == "tara"
    assert resolve_voice("echo", DEMO, NAMED) == "leo"
    with pytest.raises(InvalidRequest, match="tara, leo, alloy, narrator, ash"):
        resolve_voice("nobody", DEMO, NAMED)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"alloy": "leoo"}, "'alloy' means 'leoo', but the voices are tara, leo; did you mean 'leo'"),
        ({"tara": "leo"}, "'tara' is a voice of the model itself"),
    ],
)
def test_names_that_cannot_work_are_told(named: dict[str, str], message: str) -> None:
    check_voices(NAMED, DEMO)
    with pytest.raises(ConfigError, match=message) as caught:
        check_voices(named, DEMO)
    assert caught.value.field == "voices"


@pytest.mark.parametrize("name", ["autumn", "diana", "hannah", "austin", "daniel", "troy"])
def test_names_of_hosted_orpheus_work(name: str) -> None:
    assert resolve_voice(name, ORPHEUS) in ORPHEUS
    assert resolve_voice(name, ["only"]) == "only"


def test_over_http_the_names_are_listed_and_spoken(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    server = launch(engine, voices="alloy=leo, Narrator=tara")
    listed = httpx.get(server.url + "/v1/audio/voices").json()["voices"]
    assert [voice["id"] for voice in listed] == ["tara", "leo", "alloy", "narrator"]
    for name in ("alloy", "NARRATOR"):
        assert httpx.post(server.url + URL, json=BODY | {"voice": name}).status_code == 200
    assert [stream.voice for stream in engine.streams] == ["leo", "tara"]


def test_a_wrong_name_is_a_failed_start() -> None:
    server = LiveServer(FakeEngine(), voices={"alloy": "zoe"})
    server.start()
    assert eventually(lambda: server.failures != [])
    assert "'alloy' means 'zoe'" in str(server.failures[0])
    assert httpx.get(server.url + "/health/ready").json()["status"] == "failed"
    server.close()
