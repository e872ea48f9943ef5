"""Case 21: nothing that a client sends can write, colour or split a line of the log, or be read there."""

from __future__ import annotations

import asyncio
import json

from benchmarks.target import Target
from benchmarks.wire import SPEECH, Answer, Wire, ask

FORGED = '\r\n{"id": "req_forged", "outcome": "ok"}\r\n\x1b[31mred\x1b[0m\u2028'
SECRET = "Swordfish"
HEADERS = (
    b"x-request-id: req_forged\x1b[31m",
    b"x-request-id: a\tb",
    b"authorization: Bearer " + SECRET.encode(),
    b"user-agent: \x1b]0;" + SECRET.encode() + b"\x07",
)


async def _send(found: Target) -> int:
    """Everything that could be forged; -> how many requests that were."""
    bodies = [
        {"model": "tts-1", "voice": "tara", "input": SECRET + FORGED, "response_format": "pcm", "max_tokens": 7},
        {"model": "tts-1", "voice": SECRET + FORGED, "input": "Hello."},
        {"model": SECRET + FORGED, "voice": "tara", "input": "Hello."},
        {"model": "tts-1", "voice": "tara", "input": "Hello.", "response_format": SECRET + FORGED},
        {"model": "tts-1", "voice": "tara", "input": "Hello.", "instructions": [SECRET + FORGED]},
    ]
    for body in bodies:
        assert (await ask(found.url, body)).status in (200, 400, 404)
    for header in HEADERS:
        wire = await Wire.open(found.url)
        await wire.send(
            b"POST " + SPEECH.encode() + b" HTTP/1.1\r\nhost: x\r\n" + header + b"\r\ncontent-length: 2\r\n\r\n{}"
        )
        answer = Answer()
        while await wire.read(answer):
            pass
        assert answer.status == 400
        wire.leave()
    return len(bodies)


def test_a_request_is_one_line_whatever_it_holds(shared: Target) -> None:
    assert shared.own is not None
    before = len(shared.own.words())
    requests = asyncio.run(_send(shared))
    said = shared.own.words()[before:]
    assert SECRET not in said
    assert "req_forged" not in said
    assert not [character for character in said if not (character.isprintable() or character == "\n")]
    told = [json.loads(line) for line in said.splitlines()]
    assert len(told) >= requests
    assert {line["outcome"] for line in told} == {"ok", "invalid"}
