"""create_app: routes, error handling and the engine's life as one Litestar application."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.di import Provide

from api.auth import KeyRing
from api.context import AppContext
from api.errors import respond
from api.health import live, ready
from api.lifecycle import Lifecycle
from api.models import get_model, list_audio_models, list_models
from api.settings import Settings
from api.speech import create_speech
from api.trace import mark_response
from api.voices import list_voices
from engine import Engine, ModelInfo

ROUTES = [create_speech, list_models, get_model, list_audio_models, list_voices, live, ready]


def create_app(
    settings: Settings,
    engine: Engine | None = None,
    on_ready: Callable[[ModelInfo], None] = lambda info: None,
    on_failure: Callable[[BaseException], None] = lambda error: None,
) -> Litestar:
    """The server. It answers at once and loads the engine meanwhile; `on_ready` or `on_failure` tells how that ended.

    Raises ConfigError for settings that cannot work.
    """
    engine = engine or Engine(settings.engine_config())
    lifecycle = Lifecycle(engine, lambda: on_ready(engine.info), on_failure)
    context = AppContext(settings, engine, lifecycle)
    key_ring = KeyRing(settings.api_keys, settings.api_keys_file)

    @asynccontextmanager
    async def engine_life(_: Litestar) -> AsyncIterator[None]:
        lifecycle.start()
        try:
            yield
        finally:
            await lifecycle.stop()

    return Litestar(
        ROUTES,
        dependencies={"context": Provide(lambda: context, sync_to_thread=False)},
        lifespan=[engine_life],
        exception_handlers={Exception: respond},
        before_send=[mark_response],
        cors_config=CORSConfig(allow_origins=list(settings.cors_origins)) if settings.cors_origins else None,
        state=State({"key_ring": key_ring, "lifecycle": lifecycle}),
        logging_config=None,
        openapi_config=None,
    )
