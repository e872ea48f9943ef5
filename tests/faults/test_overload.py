"""Cases 9 and 10: more requests than can be spoken are refused in good form, the others are whole, and it passes."""

from __future__ import annotations

import asyncio
import json

from benchmarks.judge import EXPIRED, REFUSED, WHOLE, judge, name_of, references, speech
from benchmarks.overload import CASES, afterwards, capacity, overload, recovery
from benchmarks.target import Target
from benchmarks.wire import ask
from tests.faults.conftest import PATIENCE


def test_what_is_taken_is_whole_and_what_is_not_is_refused_in_good_form(shared: Target) -> None:
    asyncio.run(_overload(shared))


async def _overload(shared: Target) -> None:
    spoken = await references(shared.url, CASES)
    before = shared.outcomes()
    speed, _ = await capacity(shared.url, 4, 5.0)
    crowd, after, sdk = await overload(shared.url, rate=max(12.0, 4 * speed), seconds=6.0)
    judged = crowd.judged(spoken)
    words = [verdict for verdict, _ in judged]
    assert set(words) <= {WHOLE, REFUSED, EXPIRED}
    assert words.count(REFUSED) > len(words) / 4
    assert words.count(WHOLE) >= 4
    # OpenAI's clients try again by themselves, and are served.
    assert sdk == [WHOLE] * 4
    assert {answer.headers["x-should-retry"] for _, answer in judged if "x-should-retry" in answer.headers} <= {"true"}
    seen = shared.outcomes() - before
    # Those that asked afterwards, and the clients' own retries, come on top.
    assert seen["rejected"] + seen["timeout"] >= words.count(REFUSED) + words.count(EXPIRED)
    assert seen["ok"] >= words.count(WHOLE) + len(sdk)
    assert seen["error"] == 0
    while recovery(after, bound=PATIENCE) is None:
        after = await afterwards(shared.url, after[-1].since)
    body = CASES[0]
    assert judge(body, await ask(shared.url, body), spoken[name_of(body)]) == WHOLE


def test_the_judge_tells_what_must_not_be() -> None:
    """Each verdict that the other tests trust, from an answer that deserves it."""
    from benchmarks.wire import Answer

    body, whole = speech(0), b"\x01\x02" * 100
    sse = speech(0, "sse")
    record = b'data: {"type":"speech.audio.delta","audio":"AQI="}\r\n\r\n'
    envelope = json.dumps(
        {"error": {"message": "m", "type": "server_error", "param": None, "code": "overloaded"}}
    ).encode()
    form = {"content-type": "application/json", "retry-after": "2"}

    def verdict(
        content: bytes, clean: bool, status: int = 200, asked: dict[str, object] = body, **more: dict[str, str]
    ) -> str:
        return judge(asked, Answer(status=status, body=bytearray(content), clean=clean, **more), whole)

    assert verdict(whole, clean=True) == "whole"
    assert verdict(whole[:-2], clean=True) == "a clean end of pcm with 198 bytes of sound instead of 200"
    assert verdict(whole[:-1] + b"\x00", clean=True) == "pcm of the right length with other samples"
    assert verdict(whole[:50], clean=False) == "cut"
    assert "not the beginning" in verdict(b"\x09" * 50, clean=False)
    assert verdict(b"", clean=True) == "a clean end of pcm without a sound"
    assert verdict(record, clean=True, asked=sse) == "events that end cleanly without [DONE]"
    assert verdict(record + b'data: {"error": {"message": "broke"}}\r\n\r\n', clean=True, asked=sse) != "whole"
    assert verdict(envelope, True, 503, headers=form) == "refused"
    assert verdict(envelope, True, 503, headers=form | {"retry-after": "0.5"}) == "503 with Retry-After '0.5'"
    assert verdict(b"<html>", True, 503, headers=form) == "503 without OpenAI's envelope"
    assert verdict(envelope, True, 500, headers=form) == "failed"
