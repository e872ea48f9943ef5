"""Checks of a server that runs, from where its callers are: ready, heard, and streaming through what lies between."""

import array
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from api.doctor.findings import Finding, error, ok, warning

TEXT: Final = (
    "This is a check of a speech server. It should be heard while it is still being made, and not only when all of it "
    "is there. One, two, three, four, five, six, seven, eight, nine, ten."
)
SHORTEST: Final = 3.0
"""Seconds that these words take at least."""
LOUD: Final = 500
"""A peak, of 32,767, that silence and noise do not reach."""
STREAMED: Final = 0.3
"""The share of the time between request and end in which audio arrives when nothing holds it back: nearly all."""
BEHIND: Final = 0.5
"""Seconds that the way there and back may add to the server's own time."""
SKEW: Final = 60.0
BYTES_A_SECOND: Final = 48_000
_PROXY: Final = "let proxies stream: nginx proxy_buffering off, HAProxy option http-no-delay, no compression of audio"


@dataclass
class Heard:
    """One answer: its bytes, and when they came, in seconds since the request."""

    headers: httpx.Headers
    pcm: bytearray = field(default_factory=bytearray)
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """Of audio."""
        return len(self.pcm) / BYTES_A_SECOND

    @property
    def late(self) -> float:
        """The longest that a listener who started with the first bytes had to wait for more, in seconds."""
        if not self.arrivals:
            return 0.0
        begun, played, worst = self.arrivals[0][0], 0, 0.0
        for at, size in self.arrivals:
            worst = max(worst, at - begun - played / BYTES_A_SECOND)
            played += size
        return worst


def remote(url: str, key: str | None, patience: float = 60.0) -> Iterator[Finding]:
    """All of them; those that need a server that answers end with the first that finds none."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    root = url.rstrip("/").removesuffix("/v1")
    try:
        with httpx.Client(base_url=root, headers=headers, timeout=patience, trust_env=True) as client:
            yield from _state(client)
            yield from _speech(client)
    except httpx.InvalidURL as problem:
        yield error("url", f"{url}: {problem}", "give it as http://host:port")
    except httpx.HTTPError as problem:
        advice = "is it started, is the port right, and does a proxy or a firewall let this machine through?"
        yield error("connection", f"{root}: {type(problem).__name__}: {problem}", advice)


def _state(client: httpx.Client) -> Iterator[Finding]:
    sent = f"doctor-{secrets.token_hex(8)}"
    live = client.get("/health/live", headers={"x-request-id": sent})
    if live.status_code != 200:
        yield error("live", f"/health/live answers {live.status_code}", "its process hangs, or this is no Lyre")
    else:
        yield ok("live", f"{client.base_url} answers")
    if live.headers.get("x-request-id") != sent:
        yield warning("request ids", "ours did not come back", "let the proxy pass X-Request-Id on, to find requests")
    if (date := live.headers.get("date")) is not None:
        skew = parsedate_to_datetime(date).timestamp() - time.time()
        if abs(skew) > SKEW:
            yield warning("clock", f"the server's is {skew:+.0f} s from this one", "let both follow NTP")
    ready = client.get("/health/ready")
    body: dict[str, Any] = ready.json() if "json" in ready.headers.get("content-type", "") else {}
    shown = ", ".join(f"{name} {body[name]}" for name in ("model", "device", "dtype", "slots", "stage") if name in body)
    if ready.status_code == 200:
        yield ok("ready", shown)
    else:
        status = body.get("status", ready.status_code)
        yield error("ready", f"{status} {shown}".strip(), "wait while it loads; else its log says why")


def _speech(client: httpx.Client) -> Iterator[Finding]:
    body = {"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": "pcm"}
    began = time.monotonic()
    with client.stream("POST", "/v1/audio/speech", json=body) as answer:
        if answer.status_code != 200:
            answer.read()
            yield _refused(answer)
            return
        heard = Heard(answer.headers)
        try:
            for piece in answer.iter_raw():
                heard.arrivals.append((time.monotonic() - began, len(piece)))
                heard.pcm += piece
        except httpx.HTTPError as problem:
            when = f"after {heard.seconds:.1f} s of audio: {problem}"
            yield error("speech", f"broke off {when}", "the server's log names the cause; or a proxy has a time limit")
            return
        heard.ended = time.monotonic() - began
    yield _audible(heard)
    yield from streaming(heard)


def _refused(answer: httpx.Response) -> Finding:
    advice = {
        401: "set LYRE_API_KEYS, LYRE_API_KEYS_FILE or OPENAI_API_KEY to a key of that server",
        403: "a proxy refuses",
        404: "a proxy leads elsewhere, or the URL has a path that is not needed",
        429: "the key has reached its limit: try again later",
        503: "it is full, loading or draining: try again",
    }
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = "an answer that is not Lyre's"
    return error("speech", f"{answer.status_code}: {message}"[:300], advice.get(answer.status_code, "see its log"))


def _audible(heard: Heard) -> Finding:
    samples = array.array("h", bytes(heard.pcm[: len(heard.pcm) // 2 * 2]))
    if sys.byteorder == "big":
        samples.byteswap()
    peak = max(map(abs, samples), default=0)
    shown = f"{heard.seconds:.1f} s, peak {peak / 32768:.0%}"
    if heard.seconds < SHORTEST or peak < LOUD:
        return error("speech", f"{shown}: that is not the text", "listen to it; are model and codec a pair?")
    return ok("speech", shown)


def streaming(heard: Heard) -> Iterator[Finding]:
    """Whether the audio came while it was made, and in time for a listener."""
    if not heard.arrivals:
        return
    first, last = heard.arrivals[0][0], heard.arrivals[-1][0]
    shown = f"first audio after {first * 1000:.0f} ms, the last {last - first:.2f} s later, of {heard.seconds:.1f} s"
    if "content-length" in heard.headers or last - first < STREAMED * last:
        yield error("streaming", f"{shown}: something between holds the answer back until it is whole", _PROXY)
    else:
        yield ok("streaming", shown)
    if heard.headers.get("content-encoding", "identity") != "identity":
        yield warning("compression", f"audio came as {heard.headers['content-encoding']}", _PROXY)
    own = heard.headers.get("openai-processing-ms", "")
    if own.isdigit() and first - int(own) / 1000 > BEHIND:
        added = f"{first * 1000 - int(own):.0f} ms more than the {own} ms that the server took"
        yield warning("way", f"the first audio took {added}", _PROXY)
    if heard.late > 0.05:
        slow = f"a listener would have waited up to {heard.late:.2f} s in the middle"
        yield warning(
            "pace", slow, "the server is too slow for its load, or the way too narrow; lyre bench measures it"
        )
