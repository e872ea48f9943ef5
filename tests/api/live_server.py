"""Real servers in threads, and the ways that tests ask them.

A transport inside the process would buffer whole bodies and hide what streaming does.
"""

import io
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import av
import httpx
import uvicorn

from api.app import create_app
from api.protocol import protocol
from api.settings import Settings
from engine import Engine
from tests.api.fake_engine import FakeEngine

URL = "/v1/audio/speech"
BODY: dict[str, Any] = {"model": "tts-1", "input": "Hello there.", "voice": "alloy"}
PCM = BODY | {"response_format": "pcm"}

PATIENCE = 20.0
"""Seconds after which something that should happen soon counts as missing; no test measures time with it."""


LOADING = 110.0
"""The same for a real model on a busy machine."""


def eventually(condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
    """Whether the condition comes true in time."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


class LiveServer:
    """uvicorn on a free port in a thread of its own."""

    def __init__(self, engine: FakeEngine | Engine, **settings: Any) -> None:
        self.engine = engine
        self.failures: list[BaseException] = []
        made = Settings(**settings)
        app = create_app(made, engine=cast("Engine", engine), on_failure=self.failures.append)
        config = uvicorn.Config(
            app,
            port=0,
            http=protocol(made),  # pyright: ignore[reportArgumentType]
            ws="none",
            lifespan="on",
            log_config=None,
            proxy_headers=False,
            timeout_graceful_shutdown=5,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def start(self) -> None:
        """Returns when it listens; the engine may still load."""
        self.thread.start()
        assert eventually(lambda: self.server.started)

    def wait_ready(self) -> None:
        """Returns when the engine is ready."""
        assert eventually(lambda: self.failures != [] or self.engine.ready, LOADING)
        assert self.failures == []

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server.servers[0].sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """Its root, without a slash."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Drain and end."""
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The envelope's inside, after what holds for every error."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]


def raw_request(server: LiveServer, body: dict[str, Any] = PCM, **options: int) -> socket.socket:
    """A client of bare bytes: the request is sent, nothing is read."""
    connection = socket.socket()
    for option, value in options.items():
        connection.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
    connection.connect(("127.0.0.1", server.port))
    data = json.dumps(body).encode()
    head = f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def decode(data: bytes, container_format: str | None = None) -> tuple[bytes, int]:
    """s16 mono samples and their rate, as FFmpeg reads the file."""
    pcm = bytearray()
    with av.open(io.BytesIO(data), "r", format=container_format) as container:
        rate = container.streams.audio[0].rate
        resampler = av.AudioResampler("s16", "mono", rate)
        for frame in container.decode(audio=0):
            for resampled in resampler.resample(frame):
                pcm += bytes(resampled.planes[0])[: resampled.samples * 2]
    return bytes(pcm), rate
