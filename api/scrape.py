"""GET /metrics, on the server's own port or on one of its own."""

import logging
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Final

from litestar import Response
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from api.context import AppContext
from api.metrics import Metrics
from api.reading import read
from api.settings import Settings

log = logging.getLogger("lyre")

PATH = "/metrics"

MOST_OPEN: Final = 16
"""Connections to the metrics' own port at once, each of which has a thread."""


@read(PATH)
async def tell_metrics(context: NamedDependency[AppContext]) -> Response[bytes]:
    """The figures; 404 where they are off or have a port of their own."""
    if not context.settings.metrics or context.settings.metrics_port is not None:
        raise NotFoundException
    return Response(generate_latest(context.metrics.registry), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})


@contextmanager
def metrics_port(metrics: Metrics, settings: Settings) -> Iterator[int | None]:
    """The figures on their own port, in a thread, if the settings name one; -> the port. Raises OSError.

    It answers even while the event loop hangs.
    """
    if not settings.metrics or settings.metrics_port is None:
        yield None
        return
    try:
        server = _Server(metrics, settings.host, settings.metrics_port)
    except OSError as error:
        raise OSError(error.errno, f"the metrics' port {settings.metrics_port}: {error.strerror}") from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """Not prometheus_client's: its answers to odd Accept headers are tracebacks on standard error.

    One connection more than `MOST_OPEN` cuts the one that has been there longest, so that a scraper always gets in.
    """

    daemon_threads = True
    block_on_close = False
    # Some versions of Python share a port that is taken.
    allow_reuse_port = False

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.registry = metrics.registry
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        super().__init__((host, port), _Page)

    def server_bind(self) -> None:
        """Without HTTPServer's own question to DNS, which may take long, for a name that nobody needs."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Also keeps the number of connections."""
        with self._lock:
            self._open.append(request)
            if len(self._open) > MOST_OPEN:
                with suppress(OSError):
                    self._open.pop(0).shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Also forgets the connection."""
        with self._lock, suppress(ValueError):
            self._open.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that left, or a bug."""
        log.debug("the metrics' port: a connection broke", exc_info=sys.exc_info())


class _Page(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = 10  # seconds for each read

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404)
            return
        page = generate_latest(self.server.registry)
        self.send_response(200)
        self.send_header("content-type", CONTENT_TYPE_PLAIN_0_0_4)
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a line for each scrape would be all that there is."""
