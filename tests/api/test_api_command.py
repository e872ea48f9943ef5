"""The `lyre` command line: wrong arguments, and `speak` from the text to the file."""

import socket
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from api import __version__
from api.__main__ import main
from engine import EngineConfig
from tests.api.fake_engine import SPEECH, FakeEngine
from tests.api.live_server import decode

Command = Callable[..., Result]


@pytest.fixture
def plan() -> dict[str, Any]:
    """Changes to the plan of the engine that `speak` makes."""
    return {}


@pytest.fixture
def lyre(monkeypatch: pytest.MonkeyPatch, plan: dict[str, Any]) -> Command:
    """Runs the command in this process, with a fake engine."""

    def engine(config: EngineConfig) -> FakeEngine:
        made = FakeEngine(config)
        vars(made.plan).update(plan)
        return made

    monkeypatch.setattr("api.speak.Engine", engine)
    monkeypatch.setattr("api.app.Engine", engine)
    # Wide enough that no message is folded.
    environment = {"COLUMNS": "300", "TERMINAL_WIDTH": "300"}
    return lambda *arguments, **env: CliRunner().invoke(main, arguments, prog_name="lyre", env=environment | env)


def test_version(lyre: Command) -> None:
    assert __version__ in lyre("--version").stdout


@pytest.mark.parametrize("command", ["serve", "speak"])
def test_help_names_the_environment(lyre: Command, command: str) -> None:
    result = lyre(command, "--help")
    assert result.exit_code == 0
    assert "LYRE_MAX_CONCURRENCY" in result.stdout
    assert "api-keys " not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--port", "web"], {}, "--port"),
        ([], {"LYRE_PORTT": "1"}, "LYRE_PORTT: no such setting; did you mean LYRE_PORT?"),
        (["--max-concurrency", "0"], {}, "--max-concurrency: 0 is less than 1"),
        (["--api-keys-file", "/nowhere/keys"], {}, "/nowhere/keys"),
        (["--prot", "1"], {}, "--port"),
    ],
)
def test_wrong_settings_end_with_2(
    lyre: Command, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    result = lyre("serve", *arguments, **environment)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_taken_port_ends_with_1(lyre: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = lyre("serve", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 1
    assert "cannot listen" in result.stderr


@pytest.mark.parametrize("suffix", ["wav", "mp3", "flac", "opus", "ogg", "aac"])
def test_speak_writes_a_file(lyre: Command, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"out.{suffix}"
    result = lyre("speak", "Hello there.", "-o", str(output), "--voice", "nova", "--seed", "1")
    assert result.exit_code == 0, result.stderr
    pcm, rate = decode(output.read_bytes())
    assert len(pcm) / 2 / rate == pytest.approx(len(SPEECH) * 2048 / 24_000, abs=0.1)
    assert f"{output}: 1.02 s of speech, first audio after " in result.stderr
    assert "RTF" in result.stderr
    assert list(tmp_path.iterdir()) == [output]


def test_speak_writes_true_wav_sizes(lyre: Command, tmp_path: Path) -> None:
    output = tmp_path / "out.WAV"
    assert lyre("speak", "Hello.", "-o", str(output)).exit_code == 0
    with wave.open(str(output)) as file:
        assert file.getnframes() == len(SPEECH) * 2048
        assert file.readframes(file.getnframes()) == b"".join(SPEECH)


def test_speak_to_a_pipe(lyre: Command) -> None:
    assert lyre("speak", "Hello.", "-o", "-").stdout_bytes[44:] == b"".join(SPEECH)


def test_speed(lyre: Command, tmp_path: Path) -> None:
    output = tmp_path / "out.pcm"
    assert lyre("speak", "Hello.", "-o", str(output), "--speed", "2").exit_code == 0
    assert output.stat().st_size == pytest.approx(len(b"".join(SPEECH)) / 2, rel=0.1)


@pytest.mark.parametrize("plan", [{"fail_at": 2}, {"chunks": 0}])
def test_speak_leaves_no_broken_file(lyre: Command, tmp_path: Path) -> None:
    output = tmp_path / "out.wav"
    output.write_bytes(b"before")
    assert lyre("speak", "Hello.", "-o", str(output)).exit_code != 0
    assert output.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "out.doc"], 2, "must be one of"),
        (["--voice", "nobody"], 2, "tara, leo"),
        (["--temperature", "9"], 2, "temperature"),
        (["--speed", "9"], 2, "0.25"),
        (["--device", "tpu"], 2, "--device"),
        (["-o", "/nowhere/at/all/out.wav"], 1, "/nowhere/at/all"),
    ],
)
def test_speak_refuses(lyre: Command, arguments: list[str], code: int, message: str) -> None:
    result = lyre("speak", "Hello.", *arguments)
    assert result.exit_code == code
    assert message in result.stderr
