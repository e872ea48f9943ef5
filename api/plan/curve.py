"""What a pod does with n streams at once, as it was measured: time to first audio, real-time factor, underruns.

Read from the shipped curves or a document of `lyre bench --out` or `python -m benchmarks.serve`. No clock, no HTTP.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, Final

CURVES: Final = Path(__file__).parent / "curves"
MOST_UNDERRUNNING: Final = 0.01
"""The share of streams that may have had to wait, however long."""

_TEXT_SECONDS: Final = {"short": 1.0, "medium": 4.3, "long": 14.8}
"""How long the benchmark's texts are spoken, at 15 characters a second."""
_FIXED: Final = re.compile(r"([\d.]+) s")


class CurveError(Exception):
    """A file that is no curve; the message names it."""


@dataclass(frozen=True)
class Point:
    """n streams kept busy on one pod. Times in seconds; `factor` is time over speech, of the mean and of the 95th."""

    streams: int
    first: tuple[float, float, float]
    """To the first audio: the 50th, 95th and 99th percentile."""
    factor: float
    factor_p95: float
    underrunning: float = 0.0
    seconds: float = 0.0
    """Of speech in each request of its row."""
    waited: float = 0.0
    """The longest that a listener who began with the first audio had to wait in all."""

    def in_real_time(self, buffer: float) -> bool:
        """Whether listeners whose player holds `buffer` seconds back hear no gap."""
        return self.factor_p95 < 1 and (self.underrunning <= MOST_UNDERRUNNING or self.waited <= buffer)


@dataclass(frozen=True)
class Curve:
    """Points by rising number of streams; between them everything runs straight."""

    name: str
    source: str
    points: tuple[Point, ...]

    def most_streams(self, buffer: float) -> int:
        """The largest measured number of streams up to which all were heard in real time; 0: none was."""
        most = 0
        for point in self.points:
            if not point.in_real_time(buffer):
                break
            most = point.streams
        return most

    def factors(self, slots: int) -> list[float]:
        """The real-time factor of 0 (as of 1) to `slots` streams. Never measured beyond the last point: ValueError."""
        return [self._between(n, [point.factor for point in self.points]) for n in range(slots + 1)]

    def firsts(self, slots: int) -> list[tuple[float, float, float]]:
        """The same of the percentiles of the first audio."""
        columns = [[point.first[i] for point in self.points] for i in range(3)]
        return [
            (self._between(n, columns[0]), self._between(n, columns[1]), self._between(n, columns[2]))
            for n in range(slots + 1)
        ]

    def _between(self, streams: int, values: Sequence[float]) -> float:
        counts = [point.streams for point in self.points]
        if streams > counts[-1]:
            raise ValueError(f"{streams} streams at once were not measured, {counts[-1]} were")
        at = bisect_left(counts, streams)
        if at == 0:
            return values[0]
        share = (streams - counts[at - 1]) / (counts[at] - counts[at - 1])
        return values[at - 1] + share * (values[at] - values[at - 1])


def read_curve(name: str, utterance: float) -> Curve:
    """A shipped curve by its name or a file, as it is for speech of about `utterance` seconds. CurveError."""
    shipped = CURVES / f"{name}.json"
    path = shipped if shipped.is_file() else Path(name)
    try:
        document = _document(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CurveError(f"{name}: {error.strerror}; shipped are {', '.join(shipped_curves())}") from None
    except ValueError:
        raise CurveError(f"{name} is no JSON") from None
    try:
        points = _points(_rows(document), utterance)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CurveError(f"{name} is no result of `lyre bench` or `benchmarks.serve`: {error!r}") from None
    if not points:
        raise CurveError(f"{name} has no row of streams kept busy at once")
    title, source = document.get("name", str(path)), document.get("source", document.get("command", "lyre bench"))
    return Curve(title, f"{source}, commit {document.get('commit', 'unknown')}", points)


def shipped_curves() -> list[str]:
    """Names that `read_curve` knows."""
    return sorted(path.stem for path in CURVES.glob("*.json"))


def _document(text: str) -> Any:
    """JSON, or what a benchmark prints: tables, and a document in the last line."""
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(text.rstrip().rpartition("\n")[2])


def _rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    if "rows" in document:
        return document["rows"]
    results = document["results"]
    return [row for part in ("serve", "capacity") if part in results for row in results[part]["rows"]]


def _points(rows: Iterable[dict[str, Any]], utterance: float) -> tuple[Point, ...]:
    """One point for each number of streams: of the row whose speech is nearest to `utterance` seconds."""
    nearest: dict[int, tuple[float, Point]] = {}
    for row in rows:
        # "1, httpx" and "20/s" are no streams that are kept busy.
        if not str(row["load"]).isdigit() or row["ttfa_p50"] is None or row["rtf_p50"] is None:
            continue
        point = _point(row)
        far = abs(_seconds(row["text"]) - utterance)
        if point.streams not in nearest or far < nearest[point.streams][0]:
            nearest[point.streams] = (far, point)
    return tuple(nearest[streams][1] for streams in sorted(nearest))


def _point(row: dict[str, Any]) -> Point:
    streams, factor = int(row["load"]), float(row["rtf_p50"])
    if row.get("audio_per_s") and _FIXED.fullmatch(row["text"]):
        # What streams that were kept busy really got: pauses between requests and slow ones count, which a median does
        # not see. In a row of so many requests they are not busy at its end.
        factor = max(factor, streams / row["audio_per_s"])
    p50, p95 = row["ttfa_p50"], row.get("ttfa_p95") or row["ttfa_p50"]
    first = (p50 / 1000, p95 / 1000, (row.get("ttfa_p99") or p95) / 1000)
    rising = all(early <= late for early, late in pairwise((0.0, *first)))
    if streams < 1 or not 0 < factor < inf or not rising or not first[-1] < inf:
        raise ValueError(f"the row of {streams} streams contradicts itself")
    late = row.get("underrunning") or 0.0
    # A row that says who waited but not for how long: assume the worst.
    waited = row.get("worst_wait", None if late else 0.0)
    return Point(
        streams,
        first,
        factor,
        max(factor, row.get("rtf_p95") or factor),
        late,
        _seconds(row["text"]),
        inf if waited is None else waited / 1000,
    )


def _seconds(text: str) -> float:
    fixed = _FIXED.fullmatch(text)
    return float(fixed[1]) if fixed else _TEXT_SECONDS[text]
