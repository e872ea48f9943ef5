"""Is the process alive, can it take requests, and who is it: routes that never touch the model."""

from typing import Any, Final

from litestar import Response
from litestar.di import NamedDependency

from api import __version__
from api.context import AppContext
from api.reading import read

_LOADED: Final = ("model", "device", "dtype", "kernel", "slots")
"""What of the engine's ModelInfo is told."""


@read("/v1")
async def about() -> dict[str, str]:
    """For clients that open a connection before they need it, and for people who try the base URL."""
    return {"name": "lyre", "version": __version__}


@read("/health/live")
async def live(context: NamedDependency[AppContext]) -> Response[dict[str, str]]:
    """200 as long as the event loop turns, unless an engine process hangs: then 503 until another takes its place."""
    if context.engine.hung:
        return Response({"status": "hung"}, status_code=503)
    return Response({"status": "ok"})


@read(["/health", "/health/ready"])
async def ready(context: NamedDependency[AppContext]) -> Response[dict[str, Any]]:
    """200 when speech can be asked for; 503 while loading, draining or broken. Full slots are still ready."""
    lifecycle, engine = context.lifecycle, context.engine
    body: dict[str, Any] = {"status": lifecycle.state, "running": engine.running, "waiting": engine.waiting}
    if lifecycle.state == "ready":
        return Response(body | {name: getattr(engine.info, name) for name in _LOADED}, status_code=200)
    if lifecycle.state == "loading":
        body |= {"stage": lifecycle.stage, "done": round(lifecycle.done, 3)}
    return Response(body, status_code=503, headers={"retry-after": "2"})
