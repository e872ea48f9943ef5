"""The document at /openapi.json says what the server does. `make fuzz` holds it against thousands of answers."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from litestar import Litestar

from api.app import create_app
from api.openapi import document
from api.settings import Settings
from engine import SamplingParams
from schemas.speech import SpeechRequest
from tests.api.fake_engine import FakeEngine
from tests.api.live_server import LiveServer


@pytest.fixture
def told(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from references(child)


def test_every_reference_leads_somewhere(told: dict[str, Any]) -> None:
    assert set(references(told))
    for reference in references(told):
        node = told
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_every_documented_path_is_a_route(told: dict[str, Any]) -> None:
    app: Litestar = create_app(Settings())
    routes = {route.path_format: route.methods for route in app.routes}
    for path, operations in told["paths"].items():
        route = path.replace("{model}", "{name}")
        for method in operations.keys() - {"parameters"}:
            assert method.upper() in routes[route], path


def test_every_field_and_its_limits_are_told(told: dict[str, Any]) -> None:
    schema = told["components"]["schemas"]["SpeechRequest"]
    assert set(schema["properties"]) == set(SpeechRequest.model_fields)
    assert schema["required"] == ["model", "input", "voice"]
    assert schema["properties"]["input"]["maxLength"] == 4096
    for name in inspect.signature(SamplingParams).parameters:
        limits = schema["properties"][name]["anyOf"][0]
        for value, step in ((limits["minimum"], -1), (limits["maximum"], 1)):
            SamplingParams(**{name: value})
            with pytest.raises(Exception, match=name):
                SamplingParams(**{name: value + step})


def test_optional_fields_take_null(told: dict[str, Any]) -> None:
    schema = told["components"]["schemas"]["SpeechRequest"]
    optional = set(schema["properties"]) - set(schema["required"])
    assert all({"type": "null"} in schema["properties"][name]["anyOf"] for name in optional)


def test_the_examples_are_valid(told: dict[str, Any]) -> None:
    body = told["paths"]["/v1/audio/speech"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        SpeechRequest.model_validate(example["value"])


@pytest.mark.parametrize(("keys", "lists"), [(False, False), (True, False), (True, True)])
def test_keys_are_told_where_they_are_asked_for(keys: bool, lists: bool) -> None:
    paths = document(keys, lists)["paths"]
    assert bool(paths["/v1/audio/speech"]["post"]["security"]) == keys
    assert bool(paths["/v1/models"]["get"]["security"]) == lists
    assert ("401" in paths["/v1/models"]["get"]["responses"]) == lists
    assert not paths["/health"]["get"]["security"]


def test_a_server_with_keys_tells_so(launch: Callable[..., LiveServer]) -> None:
    told = httpx.get(launch(FakeEngine(), api_keys=("k",)).url + "/openapi.json").json()
    assert told == document(keys=True, list_keys=False)
