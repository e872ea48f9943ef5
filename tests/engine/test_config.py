"""Settings are refused where they enter, by the name of the field."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import ConfigError, EngineConfig, EngineError, InvalidRequest, SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "tpu"),
        ("device", ""),
        ("device", "auto:1"),
        ("device", "cuda:x"),
        ("device", "cuda:-1"),
        ("device", "cuda:"),
        ("devices", ""),
        ("devices", "auto,0"),
        ("devices", "0,,1"),
        ("devices", "0;1"),
        ("devices", "cuda"),
        ("devices", "-1"),
        ("devices", "cpu,0"),
        ("dtype", "float16"),
        ("quantization", "int8"),
        ("kv_dtype", "bfloat16"),
        ("codec_dtype", "int8"),
        ("load_format", "pickle"),
        ("cpu_kernel", "fast"),
        ("attention", "paged"),
        ("max_concurrency", 0),
        ("max_queue", -1),
        ("max_context", 255),
        ("memory_share", 0.0),
        ("memory_share", 1.01),
        ("memory_share", math.nan),
        ("queue_timeout", 0.0),
        ("queue_timeout", math.nan),
        ("hang_timeout", 0.5),
        ("hang_timeout", -1.0),
        ("hang_timeout", math.inf),
        ("max_silence", 0.9),
        ("max_silence", -1.0),
        ("max_silence", 61.0),
        ("max_silence", math.nan),
        ("max_restarts", -1),
        ("repetition_window", 0),
        ("cpu_threads", 0),
    ],
)
def test_a_setting_that_cannot_work_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field) as caught:
        EngineConfig(**{field: value})
    assert caught.value.field == field
    assert isinstance(caught.value, EngineError)


def test_one_device_and_a_list_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude") as caught:
        EngineConfig(device="cpu", devices="0,1")
    assert caught.value.field == "devices"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "cuda:1"),
        ("device", "cpu"),
        ("devices", "auto"),
        ("devices", "cuda:0, 1"),
        ("devices", "cpu,cpu"),
        ("dtype", "bfloat16"),
        ("max_concurrency", 1),
        ("max_queue", 0),
        ("max_context", 256),
        ("memory_share", 1.0),
        ("max_silence", 0),
        ("max_silence", 1.0),
        ("max_restarts", 0),
        ("repetition_window", 1),
        ("cpu_threads", 1),
    ],
)
def test_the_least_that_works_is_taken(field: str, value: Any) -> None:
    assert getattr(EngineConfig(**{field: value}), field) == value


def test_a_dummy_needs_the_name_of_a_shape() -> None:
    with pytest.raises(ConfigError, match="orpheus-3b"):
        EngineConfig(load_format="dummy")
    assert not EngineConfig(model="orpheus-3b", load_format="dummy").is_demo


def test_no_model_is_the_demo_voice() -> None:
    assert EngineConfig().is_demo
    assert not EngineConfig(model="somewhere").is_demo


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert EngineConfig().cache_folder == tmp_path / ".cache" / "lyre"
    assert EngineConfig(cache="~/kernels").cache_folder == tmp_path / "kernels"


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EngineConfig().model = "other"  # type: ignore[misc]


def test_settings_survive_the_way_to_the_worker() -> None:
    config = EngineConfig(model='päth/with "quotes"', cpu_threads=2, repetition_window=64, cache="/tmp/x y")
    assert msgspec.json.decode(msgspec.json.encode(config), type=EngineConfig) == config


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("temperature", 0.0, 2.0),
        ("top_p", 1e-6, 1.0),
        ("top_k", 0, 4097),
        ("repetition_penalty", 0.1, 10.0),
        ("repetition_window", 0, 1_000_000),
        ("seed", -(2**63), 2**63 - 1),
        ("max_tokens", 1, 1_000_000),
    ],
)
def test_sampling_values_outside_of_their_limits_are_refused(field: str, low: float, high: float) -> None:
    for value in (low, high):
        assert getattr(SamplingParams(**{field: value}), field) == value
    step = 1 if isinstance(low, int) else 1e-9
    for value in (low - step, high + step):
        with pytest.raises(InvalidRequest, match=field) as caught:
            SamplingParams(**{field: value})
        assert caught.value.param == field


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(SamplingParams)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest):
        SamplingParams(**{field: value})


@pytest.mark.parametrize("field", ["top_k", "repetition_window", "seed", "max_tokens"])
def test_counts_are_whole_numbers(field: str) -> None:
    # The engine process decodes these as integers: a fraction must not get that far.
    with pytest.raises(InvalidRequest, match=field):
        SamplingParams(**{field: 1.5})


def test_nothing_is_asked_for_by_default() -> None:
    assert all(value is None for value in vars(SamplingParams()).values())
