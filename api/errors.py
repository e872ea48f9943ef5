"""Every error as OpenAI's envelope: `translate` is the one table from exceptions to HTTP."""

import logging
import math
import traceback
from collections.abc import Mapping
from typing import Any, Final

from litestar import Request, Response
from litestar.enums import MediaType
from litestar.exceptions import HTTPException
from pydantic import ValidationError

from api.trace import trace_of
from engine import EngineError, EngineOverloaded, EngineUnavailable, GenerationFailed, InvalidRequest, QueueTimeout
from schemas.errors import ErrorBody, ErrorDetail

log = logging.getLogger("lyre")

RETRY_SECONDS: Final = 2.0
"""Advised when the engine names no time; clients refuse to wait for more than a minute."""

_NO_RETRY: Final = {"x-should-retry": "false"}
"""OpenAI's SDKs repeat every 5xx unless told not to. A 500 here means that this request breaks something: asked
again it would be generated, and break, again. What passes by itself is a 503 and says when to come back."""

_SHOWN_PATH: Final = 200
"""Characters of a path that an error repeats."""

_VALIDATION_CODES: Final = {
    "missing": "missing_required_parameter",
    "string_too_long": "string_above_max_length",
}


class ApiError(Exception):
    """An answer that is not a success; `outcome` is its word in the request log."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        outcome: str = "invalid",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.outcome = outcome
        self.headers = dict(headers or {})

    def body(self) -> ErrorBody:
        """The envelope."""
        return ErrorBody(error=ErrorDetail(message=str(self), type=self.type, param=self.param, code=self.code))

    @property
    def type(self) -> str:
        """OpenAI's word for the kind of error."""
        if self.status == 429:
            return "requests"
        return "server_error" if self.status >= 500 else "invalid_request_error"


class ClientGone(Exception):
    """The client closed the connection; nobody reads an answer any more."""


def busy(message: str, code: str, outcome: str, retry_after: float | None = None) -> ApiError:
    """A 503 that tells when to come back."""
    return ApiError(503, message, code=code, outcome=outcome, headers=come_back(retry_after or RETRY_SECONDS))


def come_back(seconds: float) -> dict[str, str]:
    """The Retry-After header: whole seconds, 1 to 60, as all clients take them."""
    return {"retry-after": str(min(max(math.ceil(seconds), 1), 60))}


def translate(error: Exception, request: Request[Any, Any, Any]) -> ApiError:
    """The answer to any exception."""
    match error:
        case ApiError():
            return error
        case ValidationError():
            return _invalid(error)
        case InvalidRequest():
            return ApiError(400, error.message, param=error.param, code="invalid_value")
        case EngineOverloaded():
            message = "The server is at its limit of concurrent requests. Please retry shortly."
            return busy(message, "overloaded", "rejected", error.retry_after)
        case QueueTimeout():
            message = f"The server is at its limit of concurrent requests: {error}. Please retry shortly."
            return busy(message, "timeout", "timeout", error.retry_after)
        case EngineUnavailable():
            # One that had been taken was lost with an engine process: a fault, and no refusal.
            outcome = "rejected" if trace_of(request.scope).stream is None else "error"
            return busy(f"The engine is not available: {error}", "unavailable", outcome, error.retry_after)
        case GenerationFailed():
            return ApiError(500, f"The speech could not be generated: {error}", outcome="error", headers=_NO_RETRY)
        case ClientGone():
            return ApiError(499, "The client closed the connection.", outcome="client_disconnect")
        case HTTPException(status_code=status) if status < 500:
            return _from_litestar(error, request)
        case _:
            message = "The server had an error while processing your request."
            return ApiError(500, message, outcome="error", headers=_NO_RETRY)


def respond(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's handler of all exceptions that come before the first byte."""
    answer = translate(error, request)
    trace = trace_of(request.scope)
    if answer.status == 500:
        log.error("%s: %s", trace.request_id, for_the_log(error))
    trace.emit(answer.status, answer.outcome)
    content = answer.body().model_dump_json().encode()
    return Response(content, status_code=answer.status, media_type=MediaType.JSON, headers=answer.headers)


def for_the_log(error: Exception) -> str:
    """An engine error by its message. Anything else is a bug: its place, for its message may quote the user's text."""
    if isinstance(error, EngineError):
        return repr(error)
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


def _invalid(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"We could not parse the JSON body of your request. {first['msg']}")
    if not first["loc"]:
        return ApiError(400, "The body of the request must be a JSON object.")
    param = str(first["loc"][0])
    code = _VALIDATION_CODES.get(first["type"], "invalid_value")
    if first["type"] == "missing":
        return ApiError(400, f"You must provide the parameter '{param}'.", param=param, code=code)
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"Invalid '{param}': {message}", param=param, code=code)


def _from_litestar(error: HTTPException, request: Request[Any, Any, Any]) -> ApiError:
    where = f"({request.method} {request.scope['path'][:_SHOWN_PATH]})"
    messages = {
        404: f"Invalid URL {where}",
        405: f"Method not allowed {where}",
        413: "The body of the request is too large.",
    }
    return ApiError(error.status_code, messages.get(error.status_code, error.detail), headers=error.headers)
