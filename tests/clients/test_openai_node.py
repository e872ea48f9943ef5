"""The openai package for Node: fetch responses, their streams, its error classes, its AbortController."""

from pathlib import Path

from tests.clients.conftest import KEY
from tests.clients.lyre_process import LyreProcess
from tests.clients.node_script import run_script
from tests.clients.spoken import FORMATS, MEDIA_TYPES, SENTENCE, assert_lasts, assert_speaks, decode

SCRIPT = "openai.mjs"


def test_every_format(server: LyreProcess, tmp_path: Path) -> None:
    answers = run_script(SCRIPT, "wholeAnswers", server, tmp_path)
    assert list(answers) == list(FORMATS)
    for response_format, answer in answers.items():
        assert answer["type"] == MEDIA_TYPES[response_format]
        _assert_heard(server, tmp_path / response_format, answer["id"], response_format)


def test_the_body_is_a_stream(server: LyreProcess, tmp_path: Path) -> None:
    answer = run_script(SCRIPT, "bodyStream", server, tmp_path)
    _assert_heard(server, tmp_path / "streamed", answer["id"])


def test_the_first_bytes_come_while_the_rest_is_unspoken(server: LyreProcess, tmp_path: Path) -> None:
    server.wait_idle()
    answer = run_script(SCRIPT, "firstBytes", server, tmp_path)
    assert answer["bytes"] > 0
    assert answer["running"] == 1
    assert server.line(answer["id"])["outcome"] == "client_disconnect"


def test_events(server: LyreProcess, tmp_path: Path) -> None:
    answer = run_script(SCRIPT, "events", server, tmp_path)
    assert answer["type"].startswith("text/event-stream")
    assert answer["last"] == "data: [DONE]"
    assert answer["done"]["type"] == "speech.audio.done"
    assert answer["done"]["usage"]["total_tokens"] > answer["done"]["usage"]["input_tokens"] > 0
    _assert_heard(server, tmp_path / "events", answer["id"])


def test_errors_have_their_classes(guarded: LyreProcess, tmp_path: Path) -> None:
    errors = run_script(SCRIPT, "errors", guarded, tmp_path, KEY)
    for name, expected in {
        "voice": ("BadRequestError", 400, "voice"),
        "input": ("BadRequestError", 400, "input"),
        "speed": ("BadRequestError", 400, "speed"),
        "model": ("NotFoundError", 404, "model"),
        "retrieve": ("NotFoundError", 404, "model"),
        "key": ("AuthenticationError", 401, None),
    }.items():
        error = errors[name]
        assert (error["class"], error["status"], error["param"]) == expected
        assert error["requestID"]
        # With no `error` in the body the SDK would say only this.
        assert "no body" not in error["message"]
    assert errors["model"]["code"] == "model_not_found"
    assert errors["key"]["code"] == "invalid_api_key"


def test_models(server: LyreProcess, tmp_path: Path) -> None:
    models = run_script(SCRIPT, "models", server, tmp_path)
    assert models["retrieved"] == models["listed"]
    assert {"tts-1", "gpt-4o-mini-tts", "canopylabs/orpheus-3b-0.1-ft"} <= set(models["listed"])


def test_an_abort_frees_the_place(guarded: LyreProcess, tmp_path: Path) -> None:
    answer = run_script(SCRIPT, "abort", guarded, tmp_path, KEY)
    assert answer["before"] == 1
    assert answer["stopped"] == "AbortError"
    _assert_heard(guarded, tmp_path / "next", answer["id"])


def test_an_abort_before_the_first_byte_frees_it_too(guarded: LyreProcess, tmp_path: Path) -> None:
    assert run_script(SCRIPT, "abortBeforeTheFirstByte", guarded, tmp_path, KEY)["stopped"] in {
        "APIUserAbortError",
        # The answer had begun before the abort could.
        None,
    }
    guarded.wait_idle()


def test_busy_is_tried_again(guarded: LyreProcess, tmp_path: Path) -> None:
    (first, seconds), second = run_script(SCRIPT, "busy", guarded, tmp_path, KEY)["statuses"]
    assert (first, second[0]) == (503, 200)
    assert 1 <= int(seconds) <= 60
    assert_speaks(decode((tmp_path / "answer").read_bytes()), SENTENCE)


def _assert_heard(server: LyreProcess, file: Path, request_id: str, response_format: str = "") -> None:
    sound = decode(file.read_bytes(), response_format)
    assert_speaks(sound, SENTENCE)
    line = server.line(request_id)
    assert line["outcome"] == "ok"
    assert_lasts(sound, line["audio_s"])
