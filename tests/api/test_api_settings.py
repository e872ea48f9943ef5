"""LYRE_* and flags: the values, their order, and how wrong ones are told."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from api.settings import PRESETS, Settings, load_settings
from engine import ConfigError, EngineConfig


def test_defaults() -> None:
    settings = load_settings({}, {})
    assert (settings.host, settings.port, settings.max_concurrency) == ("127.0.0.1", 8000, 16)
    assert settings.engine_config() == EngineConfig()


def test_every_engine_setting_can_be_set() -> None:
    assert {field.name for field in fields(EngineConfig)} <= set(Settings.model_fields)


def test_environment_values_are_converted() -> None:
    settings = load_settings({}, {"LYRE_PORT": "9000", "LYRE_API_KEYS": "one, two,", "LYRE_MODEL": " acme/voice "})
    assert (settings.port, settings.api_keys, settings.model) == (9000, ("one", "two"), "acme/voice")


def test_flags_win() -> None:
    settings = load_settings({"port": "1", "host": None}, {"LYRE_PORT": "2", "LYRE_HOST": "::1"})
    assert (settings.port, settings.host) == (1, "::1")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_weaker_than_what_is_set(name: str) -> None:
    sizes = PRESETS[name]
    settings = load_settings({}, {"LYRE_PRESET": name})
    assert {field: str(getattr(settings, field)) for field in sizes} == sizes
    settings = load_settings({"preset": name, "max_queue": "7"}, {"LYRE_MAX_CONCURRENCY": "3", "LYRE_PRESET": "none"})
    assert (settings.max_concurrency, settings.max_queue) == (3, 7)
    assert settings.max_context == int(sizes["max_context"])


def test_the_real_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYRE_PORT", "8123")
    assert load_settings().port == 8123


def test_an_empty_variable_is_not_set() -> None:
    assert load_settings({}, {"LYRE_MODEL": "", "LYRE_PORT": " "}) == load_settings({}, {})


@pytest.mark.parametrize("name", ["LYRE_API_KEYS", "LYRE_API_KEYS_FILE", "LYRE_CORS_ORIGINS"])
def test_empty_keys_and_origins_do_not_open_the_server(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load_settings({}, {name: ""})


@pytest.mark.parametrize("value", [",", " , ,", " "])
def test_commas_alone_do_not_open_the_server(value: str) -> None:
    for name in ("api_keys", "cors_origins"):
        with pytest.raises(ConfigError, match="is set but"):
            load_settings({}, {f"LYRE_{name.upper()}": value})
        with pytest.raises(ConfigError, match="is set but"):
            load_settings({name: value}, {})
    assert load_settings({"cors_origins": ""}, {}).cors_origins == ()


def test_a_typo_stops_the_start_and_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"LYRE_MAX_CONCURENCY: no such setting; did you mean LYRE_MAX_CONCURRENCY"):
        load_settings({}, {"LYRE_MAX_CONCURENCY": "4"})


def test_a_name_like_no_other_is_refused_too() -> None:
    with pytest.raises(ConfigError, match=r"LYRE_QZX: no such setting$"):
        load_settings({}, {"LYRE_QZX": "4"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "web"),
        ("port", "70000"),
        ("max_concurrency", "0"),
        ("max_queue", "-1"),
        ("device", "tpu"),
        ("devices", "cpu,0"),
        ("dtype", "int4"),
        ("memory_share", "1.1"),
        ("memory_share", "nan"),
        ("preset", "h300"),
        ("load_format", "dummy"),
        ("log_level", "loud"),
        ("send_timeout", "0"),
        ("first_chunk_timeout", "nan"),
        ("api_keys", "ключ"),
    ],
)
def test_wrong_values_are_named_as_they_were_given(name: str, value: Any) -> None:
    # A dummy model without a shape is a fault of `model`, the field that has to change.
    at_fault = "model" if name == "load_format" else name
    with pytest.raises(ConfigError) as caught:
        load_settings({}, {f"LYRE_{name.upper()}": value})
    assert caught.value.field == f"LYRE_{at_fault.upper()}"
    with pytest.raises(ConfigError) as caught:
        load_settings({name: value}, {})
    assert caught.value.field in (f"--{at_fault.replace('_', '-')}", f"LYRE_{at_fault.upper()}")


def test_kubernetes_service_links_are_no_settings() -> None:
    links = {
        "LYRE_SERVICE_HOST": "10.0.0.1",
        "LYRE_SERVICE_PORT": "80",
        "LYRE_SERVICE_PORT_HTTP": "80",
        "LYRE_PORT": "tcp://10.0.0.1:80",
        "LYRE_PORT_80_TCP": "tcp://10.0.0.1:80",
        "LYRE_PORT_80_TCP_ADDR": "10.0.0.1",
        "LYRE_CANARY_SERVICE_HOST": "10.0.0.2",
        "LYRE_CANARY_PORT": "tcp://10.0.0.2:80",
    }
    assert load_settings({}, links) == load_settings({}, {})


def test_keys_do_not_show() -> None:
    assert "sesame" not in repr(load_settings({}, {"LYRE_API_KEYS": "sesame"}))
    with pytest.raises(ConfigError) as caught:
        load_settings({}, {"LYRE_API_KEYS": "open sesame"})
    assert "sesame" not in str(caught.value)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings({}, {}).port = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("none", ()),
        ("*", ("*",)),
        ("https://Ours.example, http://localhost:3000", ("https://ours.example", "http://localhost:3000")),
        ("tauri://localhost,null,http://[::1]:80", ("tauri://localhost", "null", "http://[::1]:80")),
    ],
)
def test_origins_are_as_browsers_send_them(value: str, origins: tuple[str, ...]) -> None:
    assert load_settings({}, {"LYRE_CORS_ORIGINS": value}).cors_origins == origins


@pytest.mark.parametrize(
    "value", ["ours.example", "https://ours.example/", "https://", "https://a/b", "none,https://a"]
)
def test_origins_that_no_page_has_stop_the_start(value: str) -> None:
    with pytest.raises(ConfigError, match="is no origin"):
        load_settings({"cors_origins": value}, {})


def test_voice_names_are_pairs_or_a_file(tmp_path: Path) -> None:
    assert load_settings({}, {"LYRE_VOICES": "Alloy=tara, my voice = leo,"}).voices == {
        "alloy": "tara",
        "my voice": "leo",
    }
    file = tmp_path / "voices.json"
    file.write_text('{"Alloy": "tara"}')
    assert load_settings({"voices": str(file)}, {}).voices == {"alloy": "tara"}


@pytest.mark.parametrize("value", ["alloy", "alloy=", "=tara", "alloy=tara,ALLOY=leo", "/nowhere/voices.json"])
def test_other_voice_names_stop_the_start(value: str) -> None:
    with pytest.raises(ConfigError, match="LYRE_VOICES"):
        load_settings({}, {"LYRE_VOICES": value})


@pytest.mark.parametrize("content", ["", "[]", '{"alloy": 3}', '{"alloy": ""}', "\ud800"])
def test_a_voice_file_of_another_shape_stops_the_start(tmp_path: Path, content: str) -> None:
    file = tmp_path / "voices.json"
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match="--voices"):
        load_settings({"voices": str(file)}, {})
