"""429: how often and how much at once a key, or an address, may ask."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from api.errors import ApiError
from api.limits import Limits
from tests.api.fake_engine import FakeEngine
from tests.api.live_server import BODY, PATIENCE, PCM, URL, LiveServer, error_of, eventually, raw_request


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(limits: Limits, caller: str) -> int:
    """How many requests pass before the first is refused."""
    for count in itertools.count():
        try:
            limits.count(caller, {})
        except ApiError:
            return count
    raise AssertionError


@pytest.mark.parametrize("per_minute", [1, 3, 7, 60, 977])
def test_the_bucket_holds_a_minutes_requests_and_fills_evenly(clock: Clock, per_minute: int) -> None:
    limits = Limits(per_minute, 0, clock)
    assert taken(limits, "a") == per_minute
    assert taken(limits, "b") == per_minute
    clock.now += 60 / per_minute
    assert taken(limits, "a") == 1
    clock.now += 59.999
    assert taken(limits, "a") == per_minute - 1
    clock.now += 1e6
    assert taken(limits, "a") == per_minute


def test_refused_requests_take_nothing(clock: Clock) -> None:
    limits = Limits(2, 0, clock)
    for _ in range(50):
        taken(limits, "a")
    clock.now += 30
    assert taken(limits, "a") == 1


def test_the_headers_count_down(clock: Clock) -> None:
    limits, told = Limits(4, 0, clock), []
    for _ in range(4):
        headers: dict[str, str] = {}
        limits.count("a", headers)
        told.append((headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-reset-requests"]))
    assert told == [("3", "15s"), ("2", "30s"), ("1", "45s"), ("0", "60s")]


def test_short_times_are_milliseconds(clock: Clock) -> None:
    headers: dict[str, str] = {}
    Limits(500, 0, clock).count("a", headers)
    assert headers["x-ratelimit-reset-requests"] == "120ms"


def test_the_refusal_says_when_to_come_back(clock: Clock) -> None:
    limits = Limits(2, 0, clock)
    taken(limits, "a")
    clock.now += 0.5
    headers: dict[str, str] = {}
    with pytest.raises(ApiError) as caught:
        limits.count("a", headers)
    assert caught.value.headers == {"retry-after": "30"}
    assert headers["x-ratelimit-remaining-requests"] == "0"


def test_callers_that_owe_nothing_are_forgotten(clock: Clock) -> None:
    limits = Limits(1, 0, clock)
    for number in range(5000):
        limits.count(str(number), {})
        clock.now += 1
    assert len(vars(limits)["_full_at"]) < 2000


def test_zero_is_no_limit(clock: Clock) -> None:
    limits, headers = Limits(0, 0, clock), {}
    for _ in range(100):
        limits.count("a", headers)
        limits.seat("a").__enter__()
    assert headers == {}


@pytest.fixture
def asking(launch: Callable[..., LiveServer]) -> Iterator[Callable[..., httpx.Client]]:
    """`asking(engine, setting=value)`: a client of a server with these settings."""
    with ExitStack() as open_clients:
        yield lambda engine, **settings: open_clients.enter_context(
            httpx.Client(base_url=launch(engine, **settings).url, timeout=PATIENCE)
        )


def test_over_http_the_rate_is_told_and_refused(asking: Callable[..., httpx.Client]) -> None:
    engine = FakeEngine()
    client = asking(engine, requests_per_minute=2)
    first = client.post(URL, json=BODY)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    # What is wrong with a request does not make it free.
    assert client.post(URL, json={}).status_code == 400
    refused = client.post(URL, json=BODY)
    error = error_of(refused)
    assert refused.status_code == 429
    assert (error["type"], error["param"], error["code"]) == ("requests", None, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(engine.streams) == 1
    assert client.get("/v1/models").status_code == 200


def test_each_key_has_its_own_limit(asking: Callable[..., httpx.Client]) -> None:
    client = asking(FakeEngine(), requests_per_minute=1, api_keys=("one", "two"))

    def ask(key: str) -> int:
        return client.post(URL, json=BODY, headers={"authorization": f"Bearer {key}"}).status_code

    assert [ask("one"), ask("one"), ask("two"), ask("two"), ask("wrong")] == [200, 429, 200, 429, 401]


def test_no_limit_no_headers(client: httpx.Client) -> None:
    assert not [name for name in client.post(URL, json=BODY).headers if name.startswith("x-ratelimit")]


def test_requests_at_once(launch: Callable[..., LiveServer], shared_client: httpx.Client) -> None:
    engine = FakeEngine()
    engine.plan.hold_at = 1
    server = launch(engine, requests_at_once=1)
    with raw_request(server) as first:
        assert first.recv(10)
        refused = shared_client.post(server.url + URL, json=PCM)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert error_of(refused)["code"] == "rate_limit_exceeded"
        assert len(engine.streams) == 1
    assert eventually(lambda: engine.running == 0)


def test_whatever_a_request_ends_with_its_place_is_free_for_the_next(asking: Callable[..., httpx.Client]) -> None:
    client = asking(FakeEngine(), requests_at_once=1)
    outcomes = [(PCM, 200), (PCM | {"voice": "x"}, 400), (PCM, 200), (PCM | {"model": "x"}, 404), ({}, 400)]
    assert [client.post(URL, json=body).status_code for body, _ in outcomes * 5] == [code for _, code in outcomes * 5]


def test_a_failed_request_gives_up_its_place(asking: Callable[..., httpx.Client]) -> None:
    engine = FakeEngine()
    client = asking(engine, requests_at_once=1)
    engine.plan.fail_at = 0
    assert [client.post(URL, json=PCM).status_code for _ in range(3)] == [500] * 3
    engine.plan.fail_at = 2
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(URL, json=PCM)
    engine.plan.fail_at = None
    assert eventually(lambda: client.post(URL, json=PCM).status_code == 200)
