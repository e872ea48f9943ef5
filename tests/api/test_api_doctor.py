"""`lyre doctor`: it finds what is wrong, says what to do, and dies of none of it."""

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from api.__main__ import main
from api.doctor.accelerator import accelerator
from api.doctor.checkpoints import codec_files, model_files
from api.doctor.examine import first_key, usable_settings
from api.doctor.findings import Finding
from api.doctor.machine import clock, descriptors, folders, keys, ports
from api.doctor.remote import BYTES_A_SECOND, Heard, remote, streaming
from api.settings import Settings
from tests.api.fake_engine import FakeEngine
from tests.api.live_server import LiveServer

pytestmark = pytest.mark.timeout(300)


def of(findings: list[Finding], check: str) -> list[tuple[str, str]]:
    return [(finding.status, finding.message) for finding in findings if finding.check == check]


def statuses(findings: Iterator[Finding]) -> list[str]:
    found = list(findings)
    # Whoever is told of trouble is told what to do.
    assert [finding for finding in found if finding.status != "ok" and not finding.advice] == []
    return [finding.status for finding in found]


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments], env={"COLUMNS": "300"})


def findings(result: Result) -> dict[str, dict[str, Any]]:
    """The worst finding of each check, from --json."""
    order = ["ok", "warning", "error"]
    worst: dict[str, dict[str, Any]] = {}
    for finding in json.loads(result.stdout)["findings"]:
        before = worst.setdefault(finding["check"], finding)
        if order.index(finding["status"]) > order.index(before["status"]):
            worst[finding["check"]] = finding
    return worst


# ---- the whole of it


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, small_codec: Path) -> list[str]:
    """Flags of a model that is there."""
    return ["--model", str(tiny_model), "--codec", str(small_codec), "--port", "0"]


def test_a_machine_that_is_well(tiny: list[str], tmp_path: Path) -> None:
    result = doctor("--json", *tiny, "--cache", str(tmp_path), "--device", "cpu")
    found = findings(result)
    assert result.exit_code == 0, result.stdout
    assert {found[check]["status"] for check in ("settings", "torch", "model", "codec", "voices", "cache", "GPU")} == {
        "ok"
    }
    assert found["voices"]["message"] == "ana, ben"


def test_every_fault_is_found_at_once(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch cannot be imported, and takes its process with it.
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LYRE_PORTT", "1")
    monkeypatch.setenv("LYRE_MAX_CONCURRENCY", "many")
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    shard = folder / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    file = tmp_path / "file"
    file.write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ["--model", str(folder), "--codec", str(tmp_path / "nothing"), "--port", port, "--cache", str(file)]
        result = doctor("--json", *arguments, "--api-keys-file", str(file))
    found = findings(result)
    assert result.exit_code == 1
    broken = ("settings", "torch", "model", "codec", "port", "cache", "API keys")
    assert {check: found[check]["status"] for check in broken} == dict.fromkeys(broken, "error")
    assert all(found[check]["advice"] for check in broken)
    settings = [line["message"] for line in json.loads(result.stdout)["findings"] if line["check"] == "settings"]
    assert ["LYRE_PORTT" in line or "LYRE_MAX_CONCURRENCY" in line for line in settings] == [True, True]
    assert "signal 6" in found["torch"]["message"]


def test_lines_for_people(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("api.doctor.examine.probe", lambda settings: ({}, "it died"))
    result = doctor("--port", "0", "--cache", str(tmp_path))
    assert result.exit_code == 1
    assert "error    torch       cannot be loaded: it died\n" in result.stdout
    assert "-> pip install" in result.stdout


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> Iterator[Finding]:
        raise RuntimeError("no such thing")

    monkeypatch.setattr("api.doctor.examine.probe", lambda settings: ({}, "it died"))
    monkeypatch.setattr("api.doctor.examine.machine", broken)
    found = findings(doctor("--json"))
    assert found["machine"]["message"] == "the check broke: RuntimeError: no such thing"
    assert found["model"]["status"] == "ok"


# ---- its parts


def test_settings_that_cannot_work_are_left_out_one_by_one() -> None:
    settings, wrong = usable_settings(
        {"port": "web", "host": "::1"}, {"LYRE_DTYPE": "int4", "LYRE_X": "1", "LYRE_MAX_QUEUE": "7"}
    )
    assert (settings.host, settings.port, settings.dtype, settings.max_queue) == ("::1", 8000, "auto", 7)
    assert {finding.message.partition(":")[0] for finding in wrong} == {"--port", "LYRE_DTYPE", "LYRE_X"}


def test_keys_are_counted_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sesame-of-the-file\n")
    file.chmod(0o600)
    (finding,) = keys(Settings(api_keys=("sesame",), api_keys_file=file))
    assert finding.status == "ok"
    assert "sesame" not in finding.message
    file.chmod(0o644)
    assert statuses(keys(Settings(api_keys_file=file))) == ["warning"]
    assert statuses(keys(Settings(api_keys_file=tmp_path / "none"))) == ["error"]
    assert statuses(keys(Settings())) == ["ok"]
    assert statuses(keys(Settings(host="0.0.0.0"))) == ["warning"]


def test_the_first_key_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfrom-the-file\n")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert first_key({}) is None
    monkeypatch.setenv("OPENAI_API_KEY", "openai")
    assert first_key({}) == "openai"
    assert first_key({"api_keys_file": str(file)}) == "from-the-file"
    monkeypatch.setenv("LYRE_API_KEYS", "one,two")
    assert first_key({"api_keys_file": str(file)}) == "one"


def test_descriptors_are_held_against_connections() -> None:
    settings = Settings(max_concurrency=16, max_queue=16)
    limits = [None, 20_000, 1024, 150]
    assert [descriptors(settings, limit).status for limit in limits] == ["ok", "ok", "warning", "error"]


def test_a_clock_of_the_past_is_wrong() -> None:
    assert [clock(now).status for now in (0.0, 2e9)] == ["error", "ok"]


def test_ports_are_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert statuses(ports(Settings(port=taken.getsockname()[1]))) == ["error"]
    assert statuses(ports(Settings(port=0))) == ["ok"]
    assert statuses(ports(Settings(host="no.such.host.invalid"))) == ["error"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert statuses(folders(Settings(cache=str(tmp_path))))[0] == "error"


def test_a_path_too_long_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 110)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert "error" in statuses(folders(Settings(cache=str(tmp_path))))


@pytest.mark.parametrize("fault", ["config.json", "tokenizer.json", "model.safetensors", "cut", "shard", "config"])
def test_files_that_are_missing_or_cut(tiny_model: Path, tmp_path: Path, fault: str) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    assert "1 file" in model_files(folder)
    shard = folder / "model.safetensors"
    match fault:
        case "cut":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "shard":
            named = {"a": shard.name, "b": "model-2.safetensors"}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
        case "config":
            (folder / "config.json").write_text("[]")
        case _:
            (folder / fault).unlink()
    with pytest.raises(Exception):  # noqa: B017, PT011 - parsers raise anything; the caller takes all
        model_files(folder)


def test_codec_files(small_codec: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_codec, tmp_path / "codec")
    assert codec_files(folder).endswith("MiB")
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        codec_files(folder)


H100 = {"name": "NVIDIA H100", "capability": [9, 0], "free": 70 * 2**30, "total": 80 * 2**30}
T4 = {"name": "Tesla T4", "capability": [7, 5], "free": 14 * 2**30, "total": 15 * 2**30}
CUDA_13 = {
    "driver": {"cuda": 13000},
    "torch": {"version": "2.13.0", "cuda": "13.0"},
    "gpus": {"gpus": [H100], "kernels": ["sm_75", "sm_80", "sm_90", "sm_100", "compute_120"]},
    "packages": {"triton": True, "flash_attn": False},
    "room": {"rooms": [{"device": "auto", "said": "160 would fit"}]},
}

CPU_BUILD = {"torch": {"version": "2.13.0+cpu", "cuda": None}, "gpus": {"gpus": [], "kernels": []}}


@pytest.mark.parametrize(
    ("settings", "facts", "expected"),
    [
        ({}, {}, {}),
        ({}, {"driver": {"cuda": 12080}}, {"CUDA": "error"}),
        ({}, CPU_BUILD, {"CUDA": "warning", "GPU": "warning"}),
        ({"device": "cuda"}, {"driver": {"cuda": None}}, {"GPU": "error"}),
        ({"devices": "0,1"}, {"gpus": {"error": "RuntimeError: unknown error"}}, {"GPU": "error"}),
        ({}, {"gpus": {"gpus": [T4], "kernels": ["sm_75", "sm_80"]}}, {"GPU": "warning"}),
        ({}, {"gpus": {"gpus": [H100], "kernels": ["sm_75", "sm_80", "sm_100a"]}}, {"GPU": "error"}),
        ({"quantization": "fp8"}, {"gpus": {"gpus": [H100, T4], "kernels": []}}, {"fp8": "error", "GPU": "warning"}),
        ({"attention": "flash"}, {}, {"flash-attn": "error"}),
        ({}, {"packages": {"triton": False}}, {"triton": "warning"}),
        ({}, {"room": {"rooms": [{"device": "auto", "error": "16 streams need 99 GiB"}]}}, {"GPU memory": "error"}),
        ({}, {"torch": {"error": "ImportError: libcudart.so.13"}}, {"torch": "error"}),
        ({"device": "cpu"}, {"driver": {"cuda": None}, "gpus": {"gpus": [], "kernels": []}, "room": {}}, {}),
    ],
)  # fmt: skip
def test_what_the_facts_of_a_gpu_mean(
    settings: dict[str, str], facts: dict[str, Any], expected: dict[str, str]
) -> None:
    found = list(accelerator(Settings(**settings), CUDA_13 | facts, ""))  # pyright: ignore[reportArgumentType]
    assert {finding.check: finding.status for finding in found if finding.status != "ok"} == expected
    statuses(iter(found))


# ---- a server that runs


def answer(headers: dict[str, str], arrivals: list[tuple[float, int]]) -> Heard:
    heard = Heard(httpx.Headers(headers))
    heard.arrivals, heard.ended = arrivals, arrivals[-1][0]
    heard.pcm += bytes(sum(size for _, size in arrivals))
    return heard


def in_pieces(first: float, every: float, count: int = 50) -> list[tuple[float, int]]:
    """Arrivals of a tenth of a second each."""
    return [(first + every * number, BYTES_A_SECOND // 10) for number in range(count)]


@pytest.mark.parametrize(
    ("headers", "arrivals", "expected"),
    [
        ({}, in_pieces(0.1, 0.02), {"streaming": "ok"}),
        ({"openai-processing-ms": "95"}, in_pieces(0.1, 0.02), {"streaming": "ok"}),
        ({}, in_pieces(2.0, 0.001), {"streaming": "error"}),
        ({"content-length": "9"}, in_pieces(0.1, 0.02), {"streaming": "error"}),
        ({"content-encoding": "gzip"}, in_pieces(0.1, 0.02), {"streaming": "ok", "compression": "warning"}),
        ({"openai-processing-ms": "90"}, in_pieces(0.9, 0.09), {"streaming": "ok", "way": "warning"}),
        ({}, in_pieces(0.1, 0.12), {"streaming": "ok", "pace": "warning"}),
    ],
)
def test_what_arrivals_mean(
    headers: dict[str, str], arrivals: list[tuple[float, int]], expected: dict[str, str]
) -> None:
    assert {finding.check: finding.status for finding in streaming(answer(headers, arrivals))} == expected


def speaking() -> FakeEngine:
    engine = FakeEngine()
    engine.plan.chunks, engine.plan.delay = 60, 0.02
    return engine


def test_a_server_that_is_well(launch: Callable[..., LiveServer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYRE_API_KEYS", "sesame")
    server = launch(speaking(), api_keys=("sesame",))
    found = findings(doctor("--json", "--url", f"{server.url}/v1/"))
    checked = ("live", "ready", "speech", "streaming")
    assert {check: found[check]["status"] for check in checked} == dict.fromkeys(checked, "ok")


class HoldsBack(BaseHTTPRequestHandler):
    """A proxy that passes each answer on when it is whole."""

    upstream = ""

    def do_GET(self) -> None:
        self._pass_on(b"")

    def do_POST(self) -> None:
        self._pass_on(self.rfile.read(int(self.headers["content-length"])))

    def _pass_on(self, body: bytes) -> None:
        whole = httpx.request(self.command, self.upstream + self.path, content=body)
        self.send_response(whole.status_code)
        self.send_header("content-type", whole.headers["content-type"])
        self.end_headers()
        self.wfile.write(whole.content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def holding_back() -> Iterator[Callable[[LiveServer], str]]:
    """`holding_back(server)`: the URL of a proxy before it."""
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), HoldsBack)
    thread = threading.Thread(target=proxy.serve_forever, args=[0.01])
    thread.start()

    def start(server: LiveServer) -> str:
        HoldsBack.upstream = server.url
        return f"http://127.0.0.1:{proxy.server_port}"

    yield start
    proxy.shutdown()
    proxy.server_close()
    thread.join()


def test_a_proxy_that_holds_back_is_found(launch: Callable[..., LiveServer], holding_back: Callable[..., str]) -> None:
    found = list(remote(holding_back(launch(speaking())), None))
    assert [status for status, _ in of(found, "speech")] == ["ok"]
    assert [status for status, _ in of(found, "streaming")] == ["error"]


def test_a_server_that_is_not_well(launch: Callable[..., LiveServer]) -> None:
    engine = speaking()
    server = launch(engine, api_keys=("sesame",))
    assert [message[:3] for _, message in of(list(remote(server.url, "wrong")), "speech")] == ["401"]
    engine.plan.fail_at = 5
    assert "broke off" in of(list(remote(server.url, "sesame")), "speech")[0][1]
    engine.plan.fail_at, engine.plan.chunks = None, 2
    assert of(list(remote(server.url, "sesame")), "speech")[0][0] == "error"
    engine.ready = False
    assert [status for status, _ in of(list(remote(server.url, "sesame")), "ready")] == ["error"]


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = doctor("--url", f"http://127.0.0.1:{port}")
    assert result.exit_code == 1
    assert "is it started" in result.stdout
    assert doctor("--url", "http://[").exit_code == 1
    assert doctor("--url", "nowhere").exit_code == 1
