"""What is written to standard error: one JSON line for each speech request, and the lines about the server itself.

No line holds a user's text or a key. A line is a line: nothing in a message can begin another one, or move a terminal's
cursor.
"""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any, Final

from api.trace import Trace

requests = logging.getLogger("lyre.requests")

_CONTROL: Final = re.compile(r"[^\x20-\x7e\xa0-\u2027\u202f-\u2065\u2070-\U0010ffff]|[\ud800-\udfff]")
"""Characters that end lines, move cursors or turn the direction of text."""


def log_request(trace: Trace) -> None:
    """The line of a request that has ended: a watcher of it."""
    stream = trace.stream
    line = {
        "time": _when(trace.born + (trace.duration or 0.0)),
        "id": trace.request_id,
        "status": trace.status,
        "outcome": trace.outcome,
        "finish_reason": stream.finish_reason if stream else None,
        "voice": trace.voice,
        "format": trace.format,
        "sse": trace.sse,
        "chars": trace.chars,
        "queue_ms": _ms(trace.queue_seconds),
        "ttfa_ms": _ms(trace.ttfa),
        "audible_ms": _ms(trace.first_audible),
        "audio_s": round(trace.audio_seconds, 3),
        "rtf": None if trace.real_time_factor is None else round(trace.real_time_factor, 3),
        "underruns": stream.timings.underruns if stream else 0,
        "duration_ms": _ms(trace.duration),
    }
    requests.info("%s", json.dumps(line))


class JsonLines(logging.Formatter):
    """One JSON object a line; a traceback is a string in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line: dict[str, Any] = {
            "time": _when(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


class PlainLines(logging.Formatter):
    """For people. Further lines of a message are indented, so that none looks like one of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, its traceback below."""
        return "\n    ".join(_CONTROL.sub(_escaped, line) for line in super().format(record).split("\n"))


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)


def _when(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds")
