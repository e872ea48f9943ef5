"""Writes dashboard.json, the Grafana dashboard, from the rows below: `python deploy/monitoring/dashboard.py`."""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

FILE: Final = Path(__file__).with_name("dashboard.json")
CHOSEN: Final = 'namespace=~"$namespace",pod=~"$pod"'
WIDTH, HEIGHT = 8, 8  # Grafana's grid has 24 columns


class Panel(NamedTuple):
    """One graph: its title, unit, and legend -> PromQL; `{}` stands for the chosen namespace and pods."""

    title: str
    unit: str
    series: dict[str, str]
    description: str = ""
    kind: str = "timeseries"


def quantiles(metric: str, *shares: float) -> dict[str, str]:
    """Legend -> the quantiles of a histogram over all chosen pods."""
    rate = f"sum by (le) (rate({metric}_bucket{{}}[$__rate_interval]))"
    return {f"p{share * 100:g}": f"histogram_quantile({share}, {rate})" for share in shares}


def rates(metric: str, label: str) -> dict[str, str]:
    """Legend -> events a second for each value of a label."""
    return {f"{{{{{label}}}}}": f"sum by ({label}) (rate({metric}{{}}[$__rate_interval]))"}


ROWS: Final[dict[str, list[Panel]]] = {
    "Now": [
        Panel("Ready replicas", "short", {"ready": "sum(tts_ready{})"}, kind="stat"),
        Panel("Speaking", "short", {"running": "sum(tts_requests_running{})"}, kind="stat"),
        Panel("Slots taken", "percentunit", {"taken": "sum(tts_requests_running{}) / sum(tts_slots{})"}, kind="stat"),
    ],
    "Traffic and outcomes": [
        Panel("Requests by outcome", "reqps", rates("tts_requests_total", "outcome"), "Counted when they end."),
        Panel(
            "Failed in the server, and refused",
            "percentunit",
            {
                "failed": 'sum(rate(tts_requests_total{outcome=~"error|timeout|shutdown",{}}[$__rate_interval]))'
                ' / sum(rate(tts_requests_total{outcome=~"ok|error|timeout|shutdown",{}}[$__rate_interval]))',
                "refused": 'sum(rate(tts_requests_total{outcome="rejected",{}}[$__rate_interval]))'
                " / sum(rate(tts_requests_total{}[$__rate_interval]))",
            },
        ),
        Panel(
            "Speech made, by format",
            "short",
            {"{{format}}": "sum by (format) (rate(tts_audio_seconds_total{}[$__rate_interval]))"},
            "Seconds of audio a second: how many listeners are kept going.",
        ),
    ],
    "Latency": [
        Panel(
            "Time to first audio",
            "s",
            quantiles("tts_time_to_first_audio_seconds", 0.5, 0.95, 0.99),
            "From the request's receipt to the first audio that leaves the server.",
        ),
        Panel(
            "Time to first audible sound",
            "s",
            quantiles("tts_time_to_first_audible_seconds", 0.5, 0.95, 0.99),
            "As above, to the first sample that can be heard: what the model begins with silence counts.",
        ),
        Panel("Time in the queue", "s", quantiles("tts_queue_time_seconds", 0.5, 0.95, 0.99)),
    ],
    "Saturation": [
        Panel(
            "Slots and requests",
            "short",
            {
                "running": "sum(tts_requests_running{})",
                "waiting": "sum(tts_requests_waiting{})",
                "slots": "sum(tts_slots{})",
                "open answers": "sum(tts_open_answers{})",
            },
        ),
        Panel(
            "Slots taken, by pod",
            "percentunit",
            {"{{pod}}": "tts_requests_running{} / tts_slots{}"},
            "Far apart: the balancer does not look at who is busy.",
        ),
        Panel("Request duration", "s", quantiles("tts_request_duration_seconds", 0.5, 0.95)),
    ],
    "Engine": [
        Panel(
            "Time of a step", "s", quantiles("tts_engine_step_seconds", 0.5, 0.95, 0.99), "One frame, 85 ms of audio."
        ),
        Panel("Streams in a step", "short", quantiles("tts_engine_batch_size", 0.5, 0.95)),
        Panel(
            "Steps and tokens",
            "ops",
            {
                "steps": "sum(rate(tts_engine_steps_total{}[$__rate_interval]))",
                "tokens": "sum(rate(tts_engine_tokens_total{}[$__rate_interval]))",
            },
        ),
        Panel("Engines by state", "short", {"{{state}}": "sum by (state) (tts_engines{})"}),
        Panel(
            "Engine restarts",
            "short",
            {"{{pod}} {{cause}}": "sum by (pod, cause) (increase(tts_engine_restarts_total{}[1h]))"},
        ),
        Panel(
            "What runs",
            "short",
            {
                "{{version}} {{model}} {{device}} {{dtype}} {{kernel}}": "count by"
                " (version, model, device, dtype, kernel) (tts_build_info{})"
            },
        ),
    ],
    "Audio": [
        Panel(
            "Underruns for each stream",
            "percentunit",
            {
                "underruns": "sum(rate(tts_underruns_total{}[$__rate_interval]))"
                ' / sum(rate(tts_requests_total{outcome="ok",{}}[$__rate_interval]))'
            },
            "Pieces of audio that left the server later than their listener would have needed them.",
        ),
        Panel("Real-time factor", "short", quantiles("tts_real_time_factor", 0.5, 0.95), "At 1 listeners hear gaps."),
        Panel("Between two pieces of a stream", "s", quantiles("tts_chunk_interval_seconds", 0.5, 0.95, 0.99)),
        Panel(
            "Why speech ended",
            "ops",
            rates("tts_finished_total", "reason"),
            "length, repetition and silence are speech that was stopped, not finished.",
        ),
        Panel(
            "Speech made, by voice",
            "short",
            {"{{voice}}": "sum by (voice) (rate(tts_audio_seconds_total{}[$__rate_interval]))"},
        ),
    ],
    "Process": [
        Panel("Memory of the server", "bytes", {"{{pod}}": 'process_resident_memory_bytes{job="lyre",{}}'}),
        Panel(
            "Cores of the server",
            "short",
            {"{{pod}}": 'rate(process_cpu_seconds_total{job="lyre",{}}[$__rate_interval])'},
        ),
        Panel("Open files", "short", {"{{pod}}": 'process_open_fds{job="lyre",{}}'}),
    ],
}


def expression(template: str) -> str:
    """PromQL with the chosen namespace and pods in every selector."""
    return template.replace(",{}}", "," + CHOSEN + "}").replace("{}", "{" + CHOSEN + "}")


def panel(number: int, spec: Panel, x: int, y: int) -> dict[str, Any]:
    """Grafana's form of a panel at a place of the grid."""
    return {
        "id": number,
        "type": spec.kind,
        "title": spec.title,
        "description": spec.description,
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": spec.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "legendFormat": legend, "expr": expression(template)}
            for place, (legend, template) in enumerate(spec.series.items())
        ],
    }


def panels() -> list[dict[str, Any]]:
    """All rows and what is in them, from the top."""
    placed: list[dict[str, Any]] = []
    y = 0
    for title, specs in ROWS.items():
        placed.append(
            {"id": len(placed) + 1, "type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        )
        y += 1
        for place, spec in enumerate(specs):
            row, column = divmod(place, 24 // WIDTH)
            placed.append(panel(len(placed) + 1, spec, column * WIDTH, y + row * HEIGHT))
        y += HEIGHT * -(-len(specs) * WIDTH // 24)
    return placed


def choice(name: str, label: str) -> dict[str, Any]:
    """A variable that offers all values of a label of tts_ready."""
    narrowed = "tts_ready" if name == "namespace" else 'tts_ready{namespace=~"$namespace"}'
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "query": f"label_values({narrowed}, {name})",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """The whole document."""
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": "lyre",
        "title": "Lyre",
        "tags": ["lyre"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, choice("namespace", "Namespace"), choice("pod", "Pod")]},
        "panels": panels(),
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
