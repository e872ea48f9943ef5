"""Answers of the routes that tell whether and what the server is."""

from pydantic import BaseModel


class About(BaseModel):
    """GET /v1"""

    name: str
    version: str


class Health(BaseModel):
    """GET /health/ready; `stage` and `done` (0 to 1) while the model loads.

    When it is there: which it is, how it runs, and how many requests are spoken at once.
    """

    status: str
    running: int | None = None
    waiting: int | None = None
    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    kernel: str | None = None
    slots: int | None = None
    stage: str | None = None
    done: float | None = None
