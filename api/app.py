"""create_app: routes, error handling and the engine's life as one Litestar application."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide

from api.admission import Admission
from api.auth import KeyRing
from api.context import AppContext
from api.cors import Cors
from api.errors import respond
from api.health import about, live, ready
from api.lifecycle import Lifecycle
from api.limits import Limits
from api.log import log_request
from api.metrics import Metrics
from api.models import get_model, list_audio_models, list_models
from api.openapi import tell_openapi
from api.playground.page import favicon, page_file, show_page
from api.scrape import tell_metrics
from api.settings import Settings
from api.speech import create_speech
from api.trace import Trace, mark_response
from api.tracing import Tracing
from api.voices import check_voices, list_voices
from engine import Engine, ModelInfo

ROUTES = [
    create_speech,
    list_models,
    get_model,
    list_audio_models,
    list_voices,
    about,
    live,
    ready,
    tell_metrics,
    tell_openapi,
    show_page,
    page_file,
    favicon,
]


def create_app(
    settings: Settings,
    engine: Engine | None = None,
    on_ready: Callable[[ModelInfo], None] = lambda info: None,
    on_failure: Callable[[BaseException], None] = lambda error: None,
    on_progress: Callable[[str, float], None] = lambda stage, done: None,
) -> Litestar:
    """The server. It answers at once and loads the engine meanwhile: `on_progress`, then `on_ready` or `on_failure`.

    Raises ConfigError for settings that cannot work.
    """
    engine = engine or Engine(settings.engine_config())

    def loaded() -> None:
        check_voices(settings.voices, engine.info.voices)
        on_ready(engine.info)

    lifecycle = Lifecycle(engine, loaded, on_failure, on_progress)
    limits = Limits(settings.requests_per_minute, settings.requests_at_once)
    admission = Admission(engine, settings.max_open)
    metrics = Metrics(engine, lambda: admission.open)
    tracing = Tracing() if settings.tracing else None
    watchers: list[Callable[[Trace], None]] = [log_request, metrics.count]
    if tracing is not None:
        watchers.append(tracing.record)
    context = AppContext(settings, engine, lifecycle, limits, admission, metrics)
    key_ring = KeyRing(settings.api_keys, settings.api_keys_file)

    @asynccontextmanager
    async def engine_life(_: Litestar) -> AsyncIterator[None]:
        lifecycle.start()
        try:
            yield
        finally:
            await lifecycle.stop()
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    return Litestar(
        ROUTES,
        dependencies={"context": Provide(lambda: context, sync_to_thread=False)},
        lifespan=[engine_life],
        exception_handlers={Exception: respond},
        before_send=[mark_response, lifecycle.mark_response, Cors(settings.cors_origins).mark_response],
        state=State(
            {
                "key_ring": key_ring,
                "lifecycle": lifecycle,
                "metrics": metrics,
                "open_lists": settings.open_lists,
                "watchers": watchers,
            }
        ),
        logging_config=None,
        openapi_config=None,
    )
