"""Does a server somewhere speak, soon and fast enough? Asks it like a client and returns a table and what is wrong.

Standard library alone, so that it runs wherever a deployment is started from.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

BYTES_PER_SECOND: Final = 48_000  # pcm: 24,000 samples of 16 bits
TEXTS: Final = (
    "Hello there.",
    "Your order has left the warehouse, and it should be with you on Thursday before noon.",
    "The first words are heard before the last ones exist. That is the whole idea of a stream: nobody waits for the "
    "end of a sentence that has not been spoken yet, and nobody notices where one piece ends and the next begins.",
)


@dataclass(frozen=True)
class Heard:
    """One answer: seconds until its first audio and until its end, and seconds of audio in it."""

    text: str
    first_audio: float
    whole: float
    audio: float

    @property
    def real_time_factor(self) -> float:
        """Below 1 it came faster than it is listened to."""
        return self.whole / self.audio


def wait_ready(url: str, headers: Mapping[str, str], patience: float) -> None:
    """Return when /health/ready says so; TimeoutError, with the last answer, after `patience` seconds."""
    deadline = time.monotonic() + patience
    last = "no answer"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url + "/health/ready", headers=dict(headers)), timeout=30
            ):
                return
        except (OSError, http.client.HTTPException) as error:
            last = str(error)
        time.sleep(1.0)
    raise TimeoutError(f"{url} was not ready after {patience:.0f} s: {last}")


def hear(url: str, headers: Mapping[str, str], text: str) -> Heard:
    """Have one text spoken; OSError or HTTPException for anything but whole audio with status 200."""
    body = {"model": "tts-1", "voice": "alloy", "input": text, "response_format": "pcm"}
    request = urllib.request.Request(
        url + "/v1/audio/speech",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json", **headers},
    )
    begun = time.monotonic()
    first, received = 0.0, 0
    with urllib.request.urlopen(request, timeout=60) as answer:
        while piece := answer.read1(65536):
            first = first or time.monotonic() - begun
            received += len(piece)
    if received < BYTES_PER_SECOND // 4 or received % 2:
        raise http.client.HTTPException(f"{received} bytes are no speech")
    return Heard(text, first, time.monotonic() - begun, received / BYTES_PER_SECOND)


def check(
    url: str, headers: Mapping[str, str], at_once: int, most_first_audio: float, most_real_time_factor: float
) -> tuple[str, list[str]]:
    """Each text alone, then `at_once` of them together; -> a table, and a line for everything that is not right.

    `most_first_audio` in seconds, the way to the server included.
    """
    rows: list[tuple[str, Heard | str]] = [("alone", _heard(url, headers, text)) for text in TEXTS]
    with ThreadPoolExecutor(at_once) as threads:
        texts = [TEXTS[number % len(TEXTS)] for number in range(at_once)]
        together = threads.map(lambda text: _heard(url, headers, text), texts)
        rows += [(f"of {at_once}", heard) for heard in together]
    wrong: list[str] = []
    lines = [f"{'':8} {'characters':>10} {'first audio':>12} {'audio':>8} {'real-time factor':>17}"]
    for label, heard in rows:
        if isinstance(heard, str):
            wrong.append(f"{label}: {heard}")
            lines.append(f"{label:8} {heard}")
            continue
        lines.append(
            f"{label:8} {len(heard.text):>10} {heard.first_audio * 1000:>9.0f} ms {heard.audio:>6.1f} s "
            f"{heard.real_time_factor:>17.2f}"
        )
        if heard.first_audio > most_first_audio:
            wrong.append(f"{label}: first audio after {heard.first_audio:.2f} s, allowed are {most_first_audio:.2f} s")
        if heard.real_time_factor > most_real_time_factor:
            wrong.append(f"{label}: a real-time factor of {heard.real_time_factor:.2f}")
    return "\n".join(lines), wrong


def _heard(url: str, headers: Mapping[str, str], text: str) -> Heard | str:
    try:
        return hear(url, headers, text)
    except urllib.error.HTTPError as error:
        return f"status {error.code}: {error.read(300).decode('utf-8', 'replace')}"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
