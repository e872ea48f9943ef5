"""Models, voices, health and CORS: what set-up screens, proxies and browsers ask first."""

from collections.abc import Callable

import httpx
import msgspec
import pytest

from api.models import ALIASES, unpinned
from api.settings import Settings
from tests.api.fake_engine import FakeEngine
from tests.api.live_server import BODY, URL, LiveServer, error_of, eventually


def test_models_are_listed_as_openai_does(client: httpx.Client) -> None:
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    assert [card["id"] for card in body["data"]] == ["lyre-demo", *ALIASES]
    for card in body["data"]:
        assert card["object"] == "model"
        assert isinstance(card["created"], int)
        assert card["voices"] == ["tara", "leo"]


def test_the_demo_says_that_it_is_one(client: httpx.Client) -> None:
    for card in client.get("/v1/models").json()["data"]:
        assert card["owned_by"] == "lyre-demo"
        assert "not Orpheus 3B" in card["description"]


def test_a_real_model_does_not(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    engine.demo = False
    cards = httpx.get(launch(engine).url + "/v1/models").json()["data"]
    assert cards[0]["id"] == "acme/voice"
    assert {card["owned_by"] for card in cards} == {"lyre"}
    assert not any("demo" in card["description"] for card in cards)


@pytest.mark.parametrize(
    "name", ["tts-1", "lyre-demo", "canopylabs/orpheus-3b-0.1-ft", "canopylabs%2Forpheus-3b-0.1-ft"]
)
def test_one_model(client: httpx.Client, name: str) -> None:
    assert client.get(f"/v1/models/{name}").json()["id"] == name.replace("%2F", "/")


def test_one_unknown_model(client: httpx.Client) -> None:
    answer = client.get("/v1/models/fake_id")
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["message"].startswith("The model 'fake_id' does not exist")


def test_voices(client: httpx.Client) -> None:
    expected = {"voices": [{"id": "tara", "name": "tara"}, {"id": "leo", "name": "leo"}]}
    assert client.get("/v1/audio/voices").json() == expected


def test_audio_models(client: httpx.Client) -> None:
    assert {"id": "tts-1"} in client.get("/v1/audio/models").json()["models"]


def test_a_loading_server_listens(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    engine.may_start.clear()
    server = launch(engine, ready=False)
    assert httpx.get(server.url + "/health/live").status_code == 200
    for path in ("/health", "/health/ready"):
        answer = httpx.get(server.url + path)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert answer.json() == {"status": "loading", "running": 0, "waiting": 0, "stage": "weights", "done": 0.25}
    for answer in (httpx.post(server.url + URL, json=BODY), httpx.get(server.url + "/v1/models")):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "3"
        assert error_of(answer)["type"] == "server_error"
    engine.may_start.set()
    assert eventually(lambda: httpx.get(server.url + "/health/ready").status_code == 200)
    assert httpx.post(server.url + URL, json=BODY).status_code == 200


def test_an_engine_in_restart_is_not_ready_but_alive(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    server = launch(engine)
    assert eventually(lambda: httpx.get(server.url + "/health/ready").status_code == 200)
    engine.ready = False
    answer = httpx.get(server.url + "/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert httpx.get(server.url + "/health/live").status_code == 200
    assert httpx.post(server.url + URL, json=BODY).status_code == 503


def test_an_engine_that_gave_up_is_told(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    server = launch(engine)
    engine.gave_up.set()
    assert eventually(lambda: server.failures != [])
    assert httpx.get(server.url + "/health/ready").json()["status"] == "failed"


def test_the_engine_is_stopped_with_the_server() -> None:
    engine = FakeEngine()
    server = LiveServer(engine)
    server.start()
    server.wait_ready()
    server.close()
    assert engine.stopped.is_set()


def test_the_engine_is_stopped_while_it_loads() -> None:
    engine = FakeEngine()
    engine.may_start.clear()
    server = LiveServer(engine)
    server.start()
    server.close()
    assert engine.stopped.is_set()
    assert server.failures == []


def test_browsers_may_ask_from_anywhere(client: httpx.Client) -> None:
    ask = {
        "origin": "https://page.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type, x-stainless-os",
    }
    answer = client.options(URL, headers=ask)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    assert client.post(URL, json=BODY, headers=ask).headers["access-control-allow-origin"] == "*"


def test_origins_can_be_limited(launch: Callable[..., LiveServer]) -> None:
    server = launch(FakeEngine(), cors_origins=("https://ours.example",))
    ask = {"access-control-request-method": "POST"}
    allowed = httpx.options(server.url + URL, headers=ask | {"origin": "https://ours.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://ours.example"
    refused = httpx.options(server.url + URL, headers=ask | {"origin": "https://theirs.example"})
    assert "access-control-allow-origin" not in refused.headers


def test_a_preflight_of_an_sdk_is_granted_and_a_strangers_is_not(launch: Callable[..., LiveServer]) -> None:
    server = launch(FakeEngine(), cors_origins=("https://ours.example",), api_keys=("k",))
    wanted = "authorization,content-type,x-stainless-arch,x-stainless-retry-count"
    ask = {"access-control-request-method": "POST", "access-control-request-headers": wanted}
    granted = httpx.options(server.url + URL, headers=ask | {"origin": "https://ours.example"})
    assert granted.status_code == 204
    assert granted.headers["access-control-allow-headers"] == wanted
    assert "POST" in granted.headers["access-control-allow-methods"]
    assert granted.headers["vary"] == "origin"
    refused = httpx.options(server.url + URL, headers=ask | {"origin": "null"})
    assert not [name for name in refused.headers if name.startswith("access-control-allow")]


def test_a_page_can_read_an_error(client: httpx.Client) -> None:
    for answer in (
        client.post(URL, json={}, headers={"origin": "https://page.example"}),
        client.get("/x", headers={"origin": "a"}),
    ):
        assert answer.headers["access-control-allow-origin"] == "*"


def test_cors_can_be_off(launch: Callable[..., LiveServer]) -> None:
    server = launch(FakeEngine(), cors_origins=())
    answer = httpx.get(server.url + "/v1/models", headers={"origin": "https://page.example"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/models", "/v1/models/tts-1", "/v1/audio/voices", "/v1/audio/models", "/health", "/health/live"]
)
def test_head_is_get_without_the_body(client: httpx.Client, path: str) -> None:
    asked, told = client.get(path), client.head(path)
    assert told.status_code == 200
    assert told.content == b""
    assert told.headers["content-type"] == asked.headers["content-type"] == "application/json"
    assert told.headers["content-length"] == asked.headers["content-length"]


@pytest.mark.parametrize("path", ["/v1", "/v1/"])
def test_the_base_url_answers(client: httpx.Client, path: str) -> None:
    assert client.get(path).json()["name"] == "lyre"


@pytest.mark.parametrize("path", ["/models", "/models/tts-1", "/audio/voices", "/audio/models"])
def test_a_base_url_without_the_version_works(client: httpx.Client, path: str) -> None:
    assert client.get(path).json() == client.get(f"/v1{path}").json()


COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_a_repository_that_is_not_pinned_is_named_with_its_commit() -> None:
    engine = FakeEngine()
    engine.ready, engine.demo = True, False
    local = engine.info
    hub = msgspec.structs.replace(local, commit=COMMIT, codec_commit=COMMIT)
    assert unpinned(Settings(), local) == []
    assert unpinned(Settings(revision=COMMIT, codec_revision=COMMIT), hub) == []
    lines = unpinned(Settings(revision="main"), hub)
    assert [line.partition(" is not pinned")[0] for line in lines] == ["acme/voice", "snac"]
    assert [line.rpartition(" ")[2] for line in lines] == [f"LYRE_REVISION={COMMIT}", f"LYRE_CODEC_REVISION={COMMIT}"]
