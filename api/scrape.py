"""GET /metrics, on the server's own port or on one of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from litestar import Response
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from prometheus_client import start_http_server
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from api.context import AppContext
from api.metrics import Metrics
from api.reading import read
from api.settings import Settings


@read("/metrics")
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
        server, thread = start_http_server(settings.metrics_port, settings.host, metrics.registry)
    except OSError as error:
        raise OSError(error.errno, f"the metrics' port {settings.metrics_port}: {error.strerror}") from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
