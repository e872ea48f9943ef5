"""What an answer is: whole, refused, expired, cut or failed, each in good form, or something that must not be.

The model speaks a seed the same way alone and among others (on a GPU with --batch-invariant), so that a reference,
spoken in peace, tells of every answer under load whether it is whole to the sample.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import av
from av.error import FFmpegError

from benchmarks.wire import Answer, ask

WHOLE, REFUSED, EXPIRED, CUT, FAILED, GONE = "whole", "refused", "expired", "cut", "failed", "gone"
"""All of it; a 429 or 503 at once; a 503 after a wait; not ended cleanly; a 500; no answer at all."""
LATEST_RETRY = 60
PREFIX_FORMATS = ("pcm", "wav", "sse")
TEXTS = (
    "The rain came in from the sea, and nobody at the station had an umbrella.",
    "We waited under the clock and talked about bread, trains and winter.",
    "The last bus left at half past nine without us.",
    "Nobody knew the price of coffee until the shop was open again.",
)


def speech(number: int, form: str = "pcm", repeat: int = 1, voice: str = "tara") -> dict[str, Any]:
    """Request `number`: one of a few texts, the same each time. `form`: a response format, or sse (pcm in events)."""
    text = " ".join([TEXTS[number % len(TEXTS)]] * repeat)
    more = {"response_format": "pcm", "stream_format": "sse"} if form == "sse" else {"response_format": form}
    return {"model": "tts-1", "input": text, "voice": voice, "seed": number % len(TEXTS), **more}


def form_of(body: dict[str, Any]) -> str:
    """`speech`'s form."""
    return "sse" if body.get("stream_format") == "sse" else body["response_format"]


async def references(url: str, bodies: Sequence[dict[str, Any]]) -> dict[str, bytes]:
    """Each body's answer when nothing else runs, by `name_of` it. RuntimeError when one is not whole."""
    spoken: dict[str, bytes] = {}
    for body in bodies:
        name = name_of(body)
        while name not in spoken:
            answer = await ask(url, body)
            if answer.status == 503:
                await asyncio.sleep(1)  # what ran before may still be leaving
                continue
            if answer.status != 200 or not answer.clean or not sound_of(form_of(body), bytes(answer.body)):
                raise RuntimeError(f"no reference: {answer.status} {answer.error} {bytes(answer.body[:200])!r}")
            spoken[name] = bytes(answer.body)
    return spoken


def name_of(body: dict[str, Any]) -> str:
    """What makes two answers the same."""
    return json.dumps(body, sort_keys=True)


def judge(body: dict[str, Any], answer: Answer, reference: bytes | None) -> str:
    """One of the words above, or a sentence about what must not be. `reference` None: any audio that decodes."""
    if answer.status is None:
        return GONE if not answer.clean else "a clean end without an answer"
    if answer.status != 200:
        return _of_refusal(answer)
    form = form_of(body)
    if answer.clean and not (form == "sse" and b'"error"' in answer.body[-2000:]):
        return _of_whole(form, bytes(answer.body), reference)
    if form in PREFIX_FORMATS and reference is not None:
        said = sound_of(form, bytes(answer.body))
        if not sound_of(form, reference).startswith(said):
            return f"what came of {form} before the cut is not the beginning of the speech"
    return CUT


def _of_whole(form: str, body: bytes, reference: bytes | None) -> str:
    if form == "sse" and not body.endswith(b"data: [DONE]\r\n\r\n"):
        return "events that end cleanly without [DONE]"
    sound = sound_of(form, body)
    if not sound:
        return f"a clean end of {form} without a sound"
    if reference is None:
        return WHOLE
    expected = sound_of(form, reference)
    if len(sound) != len(expected):
        return f"a clean end of {form} with {len(sound)} bytes of sound instead of {len(expected)}"
    return WHOLE if sound == expected else f"{form} of the right length with other samples"


def _of_refusal(answer: Answer) -> str:
    """An error must have OpenAI's envelope; who may come back must be told when."""
    try:
        error = json.loads(bytes(answer.body))["error"]
        formed = set(error) == {"message", "type", "param", "code"} and bool(error["message"])
    except (ValueError, KeyError, TypeError):
        formed = False
    if not formed or not answer.clean or answer.headers.get("content-type") != "application/json":
        return f"{answer.status} without OpenAI's envelope"
    if answer.status not in (429, 503):
        return FAILED if answer.status == 500 else f"{answer.status}: {error['message']}"
    again = answer.headers.get("retry-after", "")
    if not (again.isdigit() and 1 <= int(again) <= LATEST_RETRY):
        return f"{answer.status} with Retry-After {again!r}"
    return EXPIRED if error["code"] == "timeout" else REFUSED


def sound_of(form: str, body: bytes) -> bytes:
    """s16le samples; of a body that is not whole, those that are."""
    if form == "sse":
        return b"".join(_deltas(body))
    if form == "pcm":
        return body
    return body[44:] if form == "wav" else _decoded(body)


def _deltas(body: bytes) -> list[bytes]:
    records = [line[6:] for line in body.replace(b"\r\n", b"\n").split(b"\n\n")[:-1] if line.startswith(b"data: {")]
    return [base64.b64decode(event["audio"]) for event in map(json.loads, records) if "audio" in event]


def _decoded(body: bytes) -> bytes:
    pcm = bytearray()
    try:
        with av.open(io.BytesIO(body), "r") as container:
            resampler = av.AudioResampler("s16", "mono", 24_000)
            for frame in container.decode(audio=0):
                for part in resampler.resample(frame):
                    pcm += bytes(part.planes[0])[: 2 * part.samples]
    except FFmpegError:
        return b""
    return bytes(pcm)
