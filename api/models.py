"""Which names `model` may take, and the routes that list them."""

from typing import Final

from litestar.di import NamedDependency
from litestar.params import FromPath

from api.auth import require_list_key
from api.context import AppContext
from api.errors import ApiError
from api.reading import read
from api.settings import Settings
from engine import ModelInfo
from engine.config import is_commit
from schemas.models import ModelCard, ModelList, ModelName, ModelNames

ALIASES: Final = (
    "orpheus",
    "canopylabs/orpheus-3b-0.1-ft",
    "tts-1",
    "tts-1-hd",
    "gpt-4o-mini-tts",
    "gpt-4o-mini-tts-2025-03-20",
    "gpt-4o-mini-tts-2025-12-15",
    "canopylabs/orpheus-v1-english",
    "tts-orpheus",
)
"""Names that existing clients send, of OpenAI's models and of hosted Orpheus; they all mean the one model served."""

DEMO_NOTE: Final = "This is the bundled demo voice: tiny, made to try the server with. It is not Orpheus 3B."


def check_model(name: str, info: ModelInfo) -> None:
    """Raise the 404 unless `name` means the served model."""
    if name != info.model and name not in ALIASES:
        message = f"The model '{name[:200]}' does not exist. This server speaks with '{info.model}'."
        raise ApiError(404, message, param="model", code="model_not_found")


@read(["/v1/models", "/models"], guards=[require_list_key])
async def list_models(context: NamedDependency[AppContext]) -> ModelList:
    """The served model and its aliases."""
    info = context.engine.info
    return ModelList(data=[_card(name, info, context.created) for name in _names(info)])


@read(["/v1/models/{name:path}", "/models/{name:path}"], guards=[require_list_key])
async def get_model(name: FromPath[str], context: NamedDependency[AppContext]) -> ModelCard:
    """One of the names; ids with a slash may come escaped or not."""
    # Litestar hands over a path parameter with its leading slash.
    wanted = name.removeprefix("/")
    check_model(wanted, context.engine.info)
    return _card(wanted, context.engine.info, context.created)


@read(["/v1/audio/models", "/audio/models"], guards=[require_list_key])
async def list_audio_models(context: NamedDependency[AppContext]) -> ModelNames:
    """The same names in the shape that Open WebUI asks for."""
    return ModelNames(models=[ModelName(id=name) for name in _names(context.engine.info)])


def _names(info: ModelInfo) -> list[str]:
    return [info.model, *(alias for alias in ALIASES if alias != info.model)]


def unpinned(settings: Settings, info: ModelInfo) -> list[str]:
    """A warning for each repository on the hub that is not pinned to a commit: what it holds can change any day."""
    asked = [
        (info.model, info.commit, settings.revision, "revision"),
        (info.codec, info.codec_commit, settings.codec_revision, "codec_revision"),
    ]
    return [
        f"{name} is not pinned: it is commit {commit} today; to speak with the same weights tomorrow set "
        f"LYRE_{setting.upper()}={commit}"
        for name, commit, revision, setting in asked
        if commit is not None and not is_commit(revision)
    ]


def _card(name: str, info: ModelInfo, created: int) -> ModelCard:
    about = DEMO_NOTE if info.demo else f"Speech by {info.model}."
    return ModelCard(
        id=name,
        created=created,
        owned_by="lyre-demo" if info.demo else "lyre",
        description=about if name == info.model else f"Another name for {info.model}. {about}",
        sample_rate=info.sample_rate,
        voices=list(info.voices),
        revision=info.commit,
    )
