"""`lyre serve`: uvicorn around the application, from the first line on the terminal to the drain."""

import asyncio
import gc
import json
import logging
import math
import socket
import time
from types import FrameType
from typing import Final

import uvicorn
from rich.console import Console

from api import __version__
from api.app import create_app
from api.lifecycle import Lifecycle
from api.log import JsonLines, PlainLines
from api.models import DEMO_NOTE, unpinned
from api.progress import LoadingBar, StderrHandler
from api.protocol import protocol
from api.scrape import metrics_port
from api.settings import Settings
from api.streaming import StreamAborted
from engine import EngineError, ModelInfo

log = logging.getLogger("lyre")

KEEP_ALIVE_SECONDS: Final = 75
"""Longer than the idle time of common load balancers, so that they, not we, close the connection."""

KERNEL_SECONDS: Final = 30
"""How much longer than our own deadline the kernel waits for a client that takes no data."""


def serve(settings: Settings) -> int:
    """Serve until a signal ends it (0) or the engine cannot run (1). Raises ConfigError, or OSError for the address."""

    bar = LoadingBar(Console(stderr=True), wanted=settings.log_format == "plain")

    def on_ready(info: ModelInfo) -> None:
        bar.close()
        # What is there now stays: no collection looks at it again, which would stop all streams for 40 ms.
        gc.collect()
        gc.freeze()
        for line in ready_lines(info, url, needs_key=bool(settings.api_keys or settings.api_keys_file)):
            log.info("%s", line)
        for line in unpinned(settings, info):
            log.warning("%s", line)

    def on_failure(error: BaseException) -> None:
        bar.close()
        log.error("the engine cannot run: %s", error, exc_info=None if isinstance(error, EngineError) else error)
        server.should_exit = True

    app = create_app(settings, on_ready=on_ready, on_failure=on_failure, on_progress=bar.show)
    listener = listen(settings.host, settings.port, settings.send_timeout)
    url = _url(listener)
    configure_logging(settings.log_level, settings.log_format)
    config = uvicorn.Config(
        app,
        http=protocol(settings),  # pyright: ignore[reportArgumentType]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
    )
    server = Server(config, app.state.lifecycle, settings.drain_seconds)
    log.info("Lyre %s listens on %s and loads the model", __version__, url)
    bar.show("engine process", 0.0)
    try:
        with metrics_port(app.state.metrics, settings) as port:
            if port is not None:
                log.info("metrics are at port %d", port)
            server.run(sockets=[listener])
    finally:
        bar.close()
    return 0 if app.state.lifecycle.failure is None else 1


class Server(uvicorn.Server):
    """uvicorn that drains on the first signal, answering 503 to new speech, and leaves at once on the second."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, drain_seconds: float) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._drain_seconds = drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None
        self._signalled = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Run until told to exit."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT. uvicorn's own would raise the signal again at the end and spoil the exit code."""
        if self._loop is None:
            self.should_exit = True
            return
        if self._signalled:
            self.should_exit = self.force_exit = True
            self._loop.call_soon_threadsafe(self._cut)
            return
        self._signalled = True
        self._loop.call_soon_threadsafe(self._start_drain)

    def _start_drain(self) -> None:
        self._drain = asyncio.ensure_future(self._drain_then_exit())

    def _cut(self) -> None:
        # Newer versions of Python would else wait for every connection to end by itself.
        for task in self.server_state.tasks:
            task.cancel()

    async def _drain_then_exit(self) -> None:
        deadline = time.monotonic() + self._drain_seconds
        log.info("draining: no new requests, %d are running", self._lifecycle.engine.running)
        await self._lifecycle.drain(self._drain_seconds)
        # The engine is done; what is left of the time is for clients that still download.
        self.config.timeout_graceful_shutdown = max(1, math.ceil(deadline - time.monotonic()))
        self.should_exit = True


def listen(host: str, port: int, write_deadline: float) -> socket.socket:
    """A listening socket; raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=1024)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Accepted connections inherit it: the kernel drops a peer that takes no data, even after we gave up on it. Not
        # before: it would look as if the client had left, and the kernel's clock starts long before ours.
        seconds = write_deadline + KERNEL_SECONDS
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(seconds * 1000))
    return listener


def ready_lines(info: ModelInfo, url: str, needs_key: bool) -> list[str]:
    """What a person wants to know when the server is ready."""
    attention = f", {info.attention} attention" if info.attention != info.kernel else ""
    lines = [
        f"ready after {info.load_seconds:.1f} s: {info.model} on {info.device} ({info.dtype}, {info.kernel} kernels"
        f"{attention}), voices {', '.join(info.voices)}"
    ]
    if info.demo:
        lines.append(DEMO_NOTE)
    body = json.dumps({"model": "tts-1", "input": "Hello there.", "voice": info.voices[0]})
    key = " -H 'authorization: Bearer YOUR_KEY'" if needs_key else ""
    lines.append(f"try: curl {url}/v1/audio/speech{key} -d '{body}' -o hello.mp3")
    if not needs_key and "//127." not in url and "//[::1]" not in url:
        lines.append("no API keys are set: everybody who reaches this address can use it")
    return lines


def configure_logging(level: str, log_format: str = "plain") -> None:
    """Everything to stderr; request lines are bare JSON, uvicorn speaks only of trouble."""
    lines = StderrHandler()
    lines.setFormatter(JsonLines() if log_format == "json" else PlainLines())
    logging.basicConfig(level=level.upper(), handlers=[lines], force=True)
    logging.captureWarnings(True)
    bare = StderrHandler()
    bare.setFormatter(logging.Formatter("%(message)s"))
    requests = logging.getLogger("lyre.requests")
    requests.handlers = [bare]
    requests.propagate = False
    uvicorn_log = logging.getLogger("uvicorn.error")
    uvicorn_log.setLevel("DEBUG" if level == "debug" else "WARNING")
    uvicorn_log.addFilter(_is_news)
    logging.getLogger("httpx").setLevel("WARNING")


def _is_news(record: logging.LogRecord) -> bool:
    """False for the traceback of a connection that we cut on purpose: its cause has its own line."""
    error = record.exc_info[1] if record.exc_info else None
    while error is not None:
        if isinstance(error, StreamAborted | asyncio.CancelledError):
            return False
        error = error.__cause__
    return True


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
