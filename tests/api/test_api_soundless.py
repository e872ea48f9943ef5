"""A model that makes no sound, over HTTP: a 500 that is not asked for again, and never an answer of silence."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from engine import Engine, EngineConfig
from tests.api.figures import lines, outcomes
from tests.api.live_server import LOADING, PCM, URL, LiveServer, error_of, eventually


@pytest.fixture(scope="module")
def silent_codec(native_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec whose last layer gives nothing, whatever is asked of it."""
    import torch

    folder = tmp_path_factory.mktemp("silent") / "codec"
    shutil.copytree(native_codec, folder)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    last = max(int(name.split(".")[2]) for name in weights if name.startswith("decoder.model."))
    for name in ("bias", "parametrizations.weight.original0"):
        weights[f"decoder.model.{last}.{name}"].zero_()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def soundless(tiny_model: Path, silent_codec: Path, kernel_cache: Path) -> Iterator[LiveServer]:
    """A real server that gives a piece up after a second of silence."""
    config = EngineConfig(
        model=str(tiny_model),
        codec=str(silent_codec),
        cache=str(kernel_cache),
        device="cpu",
        max_concurrency=1,
        max_silence=1.0,
        cpu_threads=1,
    )
    server = LiveServer(Engine(config), first_chunk_timeout=LOADING)
    server.start()
    server.wait_ready()
    yield server
    server.close()


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
def test_speech_without_a_sound_is_a_500_that_says_not_to_retry(
    soundless: LiveServer, caplog: pytest.LogCaptureFixture, stream_format: str
) -> None:
    caplog.set_level("INFO")
    before = outcomes(soundless.url).get("error", 0)
    body = PCM | {"voice": "ana", "stream_format": stream_format}
    answer = httpx.post(soundless.url + URL, json=body, timeout=LOADING)
    assert answer.status_code == 500
    error = error_of(answer)
    assert error["type"] == "server_error"
    assert "no sound" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    assert eventually(lambda: outcomes(soundless.url) == {"error": before + 1})
    assert eventually(lambda: len(lines(caplog)) == 1)
    (line,) = lines(caplog)
    assert (line["status"], line["outcome"], line["audio_s"]) == (500, "error", 0.0)
