"""The Vercel AI SDK's generateSpeech with createOpenAI({ baseURL })."""

from pathlib import Path

from tests.clients.conftest import KEY
from tests.clients.lyre_process import LyreProcess
from tests.clients.node_script import run_script
from tests.clients.spoken import FORMATS, SENTENCE, assert_lasts, assert_speaks, decode

SCRIPT = "ai_sdk.mjs"

# The SDK looks at the first bytes and, where they tell nothing, at the Content-Type.
MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


def test_nothing_but_a_text(server: LyreProcess, tmp_path: Path) -> None:
    answer = run_script(SCRIPT, "defaults", server, tmp_path)
    assert answer["mediaType"] == "audio/mpeg"
    _assert_heard(server, tmp_path / "audio", answer["id"])


def test_every_format(server: LyreProcess, tmp_path: Path) -> None:
    answers = run_script(SCRIPT, "formats", server, tmp_path)
    assert {name: answer["mediaType"] for name, answer in answers.items()} == MEDIA_TYPES
    for name in FORMATS:
        assert answers[name]["warnings"] == []
        _assert_heard(server, tmp_path / name, answers[name]["id"], name)


def test_every_option(server: LyreProcess, tmp_path: Path) -> None:
    answer = run_script(SCRIPT, "options", server, tmp_path)
    assert answer["mediaType"] == "audio/wav"
    _assert_heard(server, tmp_path / "audio", answer["id"])


def test_errors_show_the_servers_message(guarded: LyreProcess, tmp_path: Path) -> None:
    errors = run_script(SCRIPT, "errors", guarded, tmp_path, KEY)
    for name, status, part in [("voice", 400, "tara"), ("model", 404, "whisper-1"), ("key", 401, "API key")]:
        error = errors[name]
        assert (error["name"], error["status"], error["retryable"]) == ("AI_APICallError", status, False)
        assert part in error["message"]


def test_an_abort_frees_the_place(guarded: LyreProcess, tmp_path: Path) -> None:
    answer = run_script(SCRIPT, "abort", guarded, tmp_path, KEY)
    assert answer["stopped"] == "AbortError"
    _assert_heard(guarded, tmp_path / "next", answer["id"])


def _assert_heard(server: LyreProcess, file: Path, request_id: str, response_format: str = "") -> None:
    sound = decode(file.read_bytes(), response_format)
    assert_speaks(sound, SENTENCE)
    assert_lasts(sound, server.line(request_id)["audio_s"])
