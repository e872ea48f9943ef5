"""curl: the commands of the README as they stand there, and what a shell script relies on."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import KEY
from tests.clients.lyre_process import PATIENCE, ROOT, LyreProcess
from tests.clients.spoken import FORMATS, LONG, MEDIA_TYPES, SENTENCE, assert_lasts, assert_speaks, decode

README = (ROOT / "README.md").read_text()
DEFAULT_URL = "http://127.0.0.1:8000"
BODY: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": SENTENCE}


def blocks(language: str) -> list[str]:
    """The README's fenced blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def readme_commands() -> list[str]:
    """Its curl commands, each with its continued lines."""
    return re.findall(r"^\$ (curl (?:.*\\\n)*.*)$", "".join(blocks("console")), re.MULTILINE)


def readme_programs() -> list[str]:
    """Its Python programs that ask a server."""
    return [block for block in blocks("python") if DEFAULT_URL in block]


def assert_spoken_file(folder: Path, source: str) -> None:
    """The one file that a command or a program has left says the text that stands in it."""
    (file,) = folder.iterdir()
    found = re.search(r'"?input"?[:=] ?"([^"]+)"', source)
    assert found
    assert_speaks(decode(file.read_bytes()), found[1])


def curl(*arguments: Any, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run it; what the server sent comes back as text."""
    program = shutil.which("curl")
    assert program, "curl is one of the clients that are tested"
    return subprocess.run(
        [program, "--silent", "--show-error", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=check,
        timeout=PATIENCE,
    )


def in_shell(command: str, folder: Path) -> None:
    """What a person does who pastes it into a terminal."""
    subprocess.run(["bash", "-euc", command], cwd=folder, check=True, capture_output=True, timeout=PATIENCE)


def asking(server: LyreProcess, **change: Any) -> tuple[str, ...]:
    """The arguments that ask for BODY with a change."""
    return (server.base_url + "/audio/speech", "--json", json.dumps(BODY | change))


def as_flags(headers: list[str]) -> list[str]:
    """Headers as curl takes them."""
    return [part for header in headers for part in ("-H", header)]


@pytest.mark.parametrize("command", readme_commands())
def test_the_readmes_commands(server: LyreProcess, tmp_path: Path, command: str) -> None:
    assert DEFAULT_URL in command
    there = command.replace(DEFAULT_URL, server.url)
    in_shell(there, tmp_path)
    assert_spoken_file(tmp_path, command)


@pytest.mark.parametrize("program", readme_programs())
def test_the_readmes_programs(server: LyreProcess, tmp_path: Path, program: str) -> None:
    there = program.replace(DEFAULT_URL, server.url)
    subprocess.run([sys.executable, "-c", there], cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE)
    assert_spoken_file(tmp_path, program)


def test_the_readme_has_both() -> None:
    assert readme_commands()
    assert readme_programs()


def test_the_command_that_the_server_prints(server: LyreProcess, tmp_path: Path) -> None:
    printed = re.search(r"try: (curl .*)", server.log)
    assert printed
    in_shell(printed[1], tmp_path)
    assert_spoken_file(tmp_path, printed[1])


@pytest.mark.parametrize("response_format", FORMATS)
def test_files(server: LyreProcess, tmp_path: Path, response_format: str) -> None:
    file, headers = tmp_path / "speech", tmp_path / "headers"
    curl(*asking(server, response_format=response_format), "--compressed", "-o", file, "-D", headers)
    status, *lines = headers.read_text().strip().splitlines()
    named = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert status == "HTTP/1.1 200 OK"
    assert named["content-type"] == MEDIA_TYPES[response_format]
    assert named["transfer-encoding"] == "chunked"
    assert not {"content-length", "content-encoding"} & set(named)
    sound = decode(file.read_bytes(), response_format)
    assert_speaks(sound, SENTENCE)
    assert_lasts(sound, server.line(named["x-request-id"])["audio_s"])


@pytest.mark.parametrize("change", [{}, {"stream_format": "sse"}])
def test_the_first_bytes_come_while_the_rest_is_unspoken(server: LyreProcess, change: dict[str, str]) -> None:
    server.wait_idle()
    request_id = f"curl-{len(change)}"
    asked = [*asking(server, input=LONG, **change), "-H", f"x-request-id: {request_id}"]
    with subprocess.Popen(["curl", "--silent", "--no-buffer", *asked], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.read(100)
        assert server.running == 1
        process.kill()
    assert server.line(request_id)["outcome"] == "client_disconnect"


@pytest.mark.parametrize(
    "headers", [["Expect: 100-continue"], ["Transfer-Encoding: chunked"], ["Content-Type: text/plain"], ["Accept:"]]
)
def test_ways_to_send_a_body(server: LyreProcess, tmp_path: Path, headers: list[str]) -> None:
    curl(*asking(server), "--fail", *as_flags(headers), "-o", tmp_path / "speech")
    assert_speaks(decode((tmp_path / "speech").read_bytes()), SENTENCE)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (json.dumps(BODY | {"voice": "nobody"}), "400", "voice"),
        (json.dumps(BODY | {"model": "whisper-1"}), "404", "model"),
        (json.dumps({"voice": "alloy", "input": SENTENCE}), "400", "model"),
        ("{", "400", None),
        ("", "400", None),
    ],
)
def test_errors(server: LyreProcess, body: str, status: str, param: str | None) -> None:
    written = "\n%{http_code} %{content_type}"
    failed = curl(server.base_url + "/audio/speech", "-d", body, "--fail-with-body", "-w", written, check=False)
    # 22 is curl's word for a status that says no.
    assert failed.returncode == 22
    text, _, facts = failed.stdout.rpartition("\n")
    assert facts == f"{status} application/json"
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["param"] == param


def test_keys(guarded: LyreProcess) -> None:
    written = ["-o", "/dev/null", "-w", "%{http_code}"]
    assert curl(*asking(guarded), *written).stdout == "401"
    assert curl(*asking(guarded), "-H", "Authorization: Bearer wrong", *written).stdout == "401"
    assert curl(*asking(guarded), "-H", f"Authorization: Bearer {KEY}", *written).stdout == "200"


def test_a_preflight(guarded: LyreProcess) -> None:
    """A page of another origin may ask, with the headers that OpenAI's SDKs send."""
    headers = ["Origin: https://example.org", "Access-Control-Request-Method: POST"]
    headers += ["Access-Control-Request-Headers: authorization,content-type,x-stainless-lang"]
    answer = curl("-X", "OPTIONS", "-i", *as_flags(headers), asking(guarded)[0]).stdout.lower()
    assert re.match(r"http/1.1 20[04] ", answer)
    allowed = dict(re.findall(r"access-control-allow-(\w+): (.*\S)", answer))
    assert allowed["origin"] in {"*", "https://example.org"}
    assert "post" in allowed["methods"]
    for name in ("authorization", "content-type", "x-stainless-lang"):
        assert name in allowed["headers"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/audio/voices", "/v1/audio/speech", "/health", "/v1", "/v1/"])
def test_head(server: LyreProcess, path: str) -> None:
    """curl -I waits for no body, whatever the answer is."""
    answer = curl("-I", server.url + path).stdout.lower()
    assert re.match(r"http/1.1 (200|405) ", answer)
    assert "x-request-id: " in answer
