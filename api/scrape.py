"""GET /metrics, on the server's own port or on one of its own."""

from litestar import Response
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from api.context import AppContext
from api.reading import read


@read("/metrics")
async def tell_metrics(context: NamedDependency[AppContext]) -> Response[bytes]:
    """The figures; 404 where they are off or have a port of their own."""
    if not context.settings.metrics or context.settings.metrics_port is not None:
        raise NotFoundException
    return Response(generate_latest(context.metrics.registry), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})
