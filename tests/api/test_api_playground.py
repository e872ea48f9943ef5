"""The page's files as HTTP gives them; tests/page opens them in a browser."""

from collections.abc import Callable

import httpx
import pytest

from api.playground.page import FILES
from tests.api.fake_engine import FakeEngine
from tests.api.live_server import LiveServer, error_of


def test_the_page_comes_with_a_strict_policy(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_file_is_served_whole_and_again_only_when_it_changed(client: httpx.Client, name: str) -> None:
    answer = client.get(f"/playground/{name}")
    assert answer.content == FILES[name].content
    again = client.get(f"/playground/{name}", headers={"if-none-match": f'"other", W/{answer.headers["etag"]}'})
    assert again.status_code == 304
    assert again.content == b""
    assert client.get(f"/playground/{name}", headers={"if-none-match": '"other"'}).status_code == 200


def test_nothing_in_the_page_runs_inline_or_comes_from_elsewhere() -> None:
    page = FILES["index.html"].content.decode()
    assert "//" not in page.replace("<!doctype", "")
    assert "style=" not in page
    assert page.count("<script") == 1
    assert 'src="playground/app.js"></script>' in page


@pytest.mark.parametrize("path", ["/", "/playground/app.js", "/favicon.ico"])
def test_probes_may_ask_for_the_head_alone(client: httpx.Client, path: str) -> None:
    whole, head = client.get(path), client.head(path)
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == whole.headers["content-length"]


@pytest.mark.parametrize("path", ["/playground/page.py", "/playground/..%2fpage.py", "/playground/", "/playground"])
def test_only_its_own_files_are_served(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    error_of(answer)


def test_it_is_there_before_the_engine_and_without_a_key(launch: Callable[..., LiveServer]) -> None:
    engine = FakeEngine()
    engine.may_start.clear()
    server = launch(engine, ready=False, api_keys=("sk-secret",))
    assert httpx.get(server.url).status_code == 200
    engine.may_start.set()


def test_it_can_be_turned_off(launch: Callable[..., LiveServer]) -> None:
    server = launch(FakeEngine(), playground=False)
    for path in ("/", "/playground/app.js", "/favicon.ico"):
        answer = httpx.get(server.url + path)
        assert answer.status_code == 404
        assert "Invalid URL" in error_of(answer)["message"]
