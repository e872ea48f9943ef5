"""The metrics that a server promises, as docs/metrics.md lists them, and what in PromQL is none of them."""

import re
from typing import Any, Final

import promql_parser

GAUGES: Final = [
    "tts_ready",
    "tts_requests_running",
    "tts_requests_waiting",
    "tts_slots",
    "tts_open_answers",
    "tts_engines",
]
COUNTERS: Final = [
    "tts_requests_total",
    "tts_finished_total",
    "tts_audio_seconds_total",
    "tts_underruns_total",
    "tts_engine_steps_total",
    "tts_engine_tokens_total",
    "tts_engine_restarts_total",
]
HISTOGRAMS: Final = [
    "tts_time_to_first_audio_seconds",
    "tts_time_to_first_audible_seconds",
    "tts_queue_time_seconds",
    "tts_request_duration_seconds",
    "tts_real_time_factor",
    "tts_chunk_interval_seconds",
    "tts_engine_step_seconds",
    "tts_engine_batch_size",
]
PROCESS: Final = ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"]
INFO: Final = "tts_build_info"

OURS: Final = {
    *GAUGES,
    *COUNTERS,
    *PROCESS,
    INFO,
    *(f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")),
}
"""The names of all series."""

LABELS: Final[dict[str, dict[str, set[str] | None]]] = {
    "tts_requests_total": {
        "outcome": {
            *("ok", "client_disconnect", "rejected", "timeout", "stalled"),
            *("error", "invalid", "shutdown", "unauthorized"),
        }
    },
    "tts_finished_total": {"reason": {"stop", "length", "cancelled", "expired", "repetition", "silence"}},
    "tts_audio_seconds_total": {"voice": None, "format": {"mp3", "opus", "aac", "flac", "wav", "pcm"}},
    "tts_engines": {"state": {"ready", "loading", "down"}},
    "tts_engine_restarts_total": {"cause": {"death", "hang"}},
    INFO: {"version": None, "model": None, "device": None, "dtype": None, "kernel": None},
}
"""Metric -> its labels and their values; None: not listed here."""

OTHERS: Final = {"up", "kube_pod_container_status_restarts_total", "DCGM_FI_DEV_XID_ERRORS"}
"""What Prometheus, kube-state-metrics and NVIDIA's exporter say."""

SCRAPED: Final = {"namespace", "pod", "job", "instance", "le", "container", "exported_container"}
"""Labels that come from the scrape, from histograms, or with OTHERS."""


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Every selector of an expression; raises ValueError for what is no PromQL."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        for name in ("expr", "lhs", "rhs", "vs", "vector_selector", "param", "args"):
            inner = getattr(node, name, None)
            for each in inner if isinstance(inner, list) else [inner]:
                if each is not None and not isinstance(each, str | float | int):
                    visit(each)

    visit(promql_parser.parse(expression))
    return found


def complaints(expression: str) -> list[str]:
    """What in an expression no server could ever answer: unknown names, labels, or values of labels."""
    wrong: list[str] = []
    for selector in selectors(expression):
        if selector.name not in OURS | OTHERS:
            wrong.append(f"no metric {selector.name}")
        own = LABELS.get(selector.name, {})
        for matcher in selector.matchers.matchers:
            values = own.get(matcher.name)
            if matcher.name not in own and matcher.name not in SCRAPED:
                wrong.append(f"{selector.name} has no label {matcher.name}")
            elif values is not None and not set(matcher.value.split("|")) <= values:
                wrong.append(f"{selector.name}: {matcher.name} is never {matcher.value}")
    known = {label for selector in selectors(expression) for label in LABELS.get(selector.name, {})} | SCRAPED
    for group in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", expression):
        wrong += [f"nothing has a label {label}" for label in re.split(r"\s*,\s*", group.strip()) if label not in known]
    return wrong
