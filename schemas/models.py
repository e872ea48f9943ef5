"""Answers of the listing routes: models as OpenAI lists them, voices as Open WebUI reads them."""

from typing import Literal

from pydantic import BaseModel


class ModelCard(BaseModel):
    """One name that `model` may take; the fields after `owned_by` are Lyre's own."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    description: str
    sample_rate: int
    voices: list[str]
    revision: str | None = None
    """The commit of its repository on the hub."""


class ModelList(BaseModel):
    """GET /v1/models"""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ModelName(BaseModel):
    """One entry of ModelNames."""

    id: str


class ModelNames(BaseModel):
    """GET /v1/audio/models"""

    models: list[ModelName]


class Voice(BaseModel):
    """One voice of the checkpoint."""

    id: str
    name: str


class VoiceList(BaseModel):
    """GET /v1/audio/voices"""

    voices: list[Voice]
