"""Is the process alive, can it take requests: three routes that never touch the model."""

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency

from api.context import AppContext


@get("/health/live")
async def live() -> dict[str, str]:
    """200 as long as the event loop turns."""
    return {"status": "ok"}


@get(["/health", "/health/ready"])
async def ready(context: NamedDependency[AppContext]) -> Response[dict[str, Any]]:
    """200 when speech can be asked for; 503 while loading, draining or broken. Full slots are still ready."""
    lifecycle, engine = context.lifecycle, context.engine
    body: dict[str, Any] = {"status": lifecycle.state, "running": engine.running, "waiting": engine.waiting}
    if lifecycle.state == "ready":
        return Response(body | {"model": engine.info.model}, status_code=200)
    if lifecycle.state == "loading":
        body |= {"stage": lifecycle.stage, "done": round(lifecycle.done, 3)}
    return Response(body, status_code=503, headers={"retry-after": "2"})
