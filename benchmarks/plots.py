"""Draws the figures of `lyre bench --out results.json` for docs/performance.md.

    python -m benchmarks.plots results.json --to docs

`streams.svg`: streams at once against the time to first audio, the real-time factor and the share that underruns.
`roofline.svg`: a decode step's time by batch beside its limit, and the share of the limit. A picture whose figures the
file lacks is not drawn. `--beside NAME=FILE` draws another server's rows, too, where the same machine gave them. Needs
matplotlib: pip install --group bench.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which people with any kind of colour vision tell apart; dashes and marks say the same.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
MARKS = "os^D"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lyre",
}
MOST_UNDERRUNNING = 1.0

Rows = Sequence[Mapping[str, Any]]


def draw_streams(servers: Mapping[str, Rows], about: str, path: Path) -> None:
    """Three panels over the streams at once; `servers` by name, the first one is ours."""
    from matplotlib import pyplot as plt  # pyright: ignore[reportMissingImports]

    figure, (first, pace, late) = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained")
    for (name, rows), colour, mark in zip(servers.items(), COLOURS, MARKS, strict=False):
        streams = [int(row["load"]) for row in rows]
        label = f"{name}: " if len(servers) > 1 else ""
        for axes, kind in ((first, "ttfa"), (pace, "rtf")):
            for share, dashes, words in (("p50", "-", "median"), ("p95", "--", "95 % are below")):
                values = [_number(row[f"{kind}_{share}"]) for row in rows]
                axes.plot(streams, values, dashes, color=colour, marker=mark, label=label + words)
        share = [100 * _number(row["underrunning"]) for row in rows]
        late.plot(streams, share, color=colour, marker=mark, label=name)
    pace.axhline(1.0, color=GREY, linestyle=":", linewidth=1.2)
    pace.annotate("real time", (0.02, 1.0), xycoords=("axes fraction", "data"), va="bottom", color=GREY)
    late.axhline(MOST_UNDERRUNNING, color=GREY, linestyle=":", linewidth=1.2)
    late.annotate("1 %", (0.02, MOST_UNDERRUNNING), xycoords=("axes fraction", "data"), va="bottom", color=GREY)
    titles = ("Time to first audio, ms", "Real-time factor of a stream", "Streams that underran, %")
    for axes, title in zip((first, pace, late), titles, strict=True):
        axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
        axes.set_xlabel("streams at once")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    late.set_ylim(top=max(late.get_ylim()[1], 2 * MOST_UNDERRUNNING))
    first.legend()
    if len(servers) > 1:
        late.legend()
    _save(figure, about, path)


def draw_roofline(rows: Rows, about: str, path: Path) -> None:
    """A decode step by batch: its time beside the limit, and what share of the limit that is."""
    from matplotlib import pyplot as plt  # pyright: ignore[reportMissingImports]

    figure, (times, shares) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    batches = sorted({row["batch"] for row in rows})
    for (kernel, context), colour, mark in zip(_kinds(rows), COLOURS, MARKS, strict=False):
        chosen = [row for row in rows if (row["kernel"], row["context"]) == (kernel, context)]
        places = [batches.index(row["batch"]) for row in chosen]
        label, percent = f"{kernel}, context {context}", [100 * row["share"] for row in chosen]
        times.plot(places, [row["step_ms"] for row in chosen], color=colour, marker=mark, label=label)
        times.plot(places, [row["limit_ms"] for row in chosen], ":", color=colour, label="its limit")
        shares.plot(places, percent, color=colour, marker=mark, label=label)
        for at in zip(places, percent, strict=True):
            shares.annotate(f"{at[1]:.0f}", at, (0, 6), textcoords="offset points", ha="center")
    times.set_ylim(bottom=0)
    times.set_title("Decode step, ms a token", loc="left", fontsize=9.5, fontweight="bold")
    shares.set_title("Share of the card's limit, %", loc="left", fontsize=9.5, fontweight="bold")
    shares.set_ylim(0, 105)
    for axes in (times, shares):
        axes.margins(x=0.08)
        axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
        axes.set_xlabel("streams in the batch")
    times.legend()
    _save(figure, about, path)


def _kinds(rows: Rows) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row["kernel"], row["context"]) for row in rows))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _save(figure: Any, about: str, path: Path) -> None:
    figure.supxlabel(about, fontsize=7.5, color=GREY)
    figure.savefig(path, metadata={"Date": None})
    print(path)


def about_streams(report: Mapping[str, Any]) -> str:
    """What was measured, in one line."""
    document = report["results"]["capacity"]
    server = document["server"]
    return (
        f"{server['model']} ({server['dtype']}) on {server['device']}, utterances of {document['seconds']:g} s, "
        f"pcm over loopback HTTP, commit {document['commit']}"
    )


def about_decode(report: Mapping[str, Any]) -> str:
    """The same of the decode steps."""
    document = report["results"]["decode"]
    return f"{document['model']} in {document['dtype']} on {document['device']['name']}, commit {document['commit']}"


def beside(report: Mapping[str, Any], named: Sequence[str]) -> dict[str, Rows]:
    """Our capacity rows, and those of other servers. SystemExit for another machine's, or a file without any."""
    servers = {"Lyre": report["results"]["capacity"]["rows"]}
    for pair in named:
        name, _, path = pair.partition("=")
        other = json.loads(Path(path).read_text(encoding="utf-8"))
        document = other.get("results", {}).get("capacity", other)
        if "rows" not in document:
            raise SystemExit(f"{path} has no rows")
        if document["machine"] != report["machine"]:
            raise SystemExit(f"{path} was measured on another machine: nothing could be compared")
        servers[name] = document["rows"]
    return servers


def main(arguments: Sequence[str] | None = None) -> int:
    """-> the exit status: 1 when there was nothing to draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--to", type=Path, default=Path("docs"), help="folder of the pictures")
    parser.add_argument("--beside", nargs="+", default=[], metavar="NAME=FILE", help="capacity rows of other servers")
    args = parser.parse_args(arguments)
    try:
        import matplotlib as mpl  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SystemExit("pictures need matplotlib: pip install --group bench") from None
    mpl.use("svg")
    mpl.rcParams.update(STYLE)
    report = json.loads(args.results.read_text(encoding="utf-8"))
    results, drawn = report["results"], 0
    args.to.mkdir(parents=True, exist_ok=True)
    if results.get("capacity", {}).get("rows"):
        draw_streams(beside(report, args.beside), about_streams(report), args.to / "streams.svg")
        drawn += 1
    if results.get("decode", {}).get("rows"):
        draw_roofline(results["decode"]["rows"], about_decode(report), args.to / "roofline.svg")
        drawn += 1
    if not drawn:
        print(f"{args.results} has neither capacity nor decode rows", file=sys.stderr)
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main())
