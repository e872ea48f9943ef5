"""OpenAI's error envelope: four keys, always all of them."""

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """What went wrong, for people (`message`) and for programs (the rest)."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail
