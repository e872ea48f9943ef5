"""GET /openapi.json: what this server takes and answers, in OpenAPI 3.1, made of the models that do the checking."""

import json
from functools import cache
from typing import Any, Final

from litestar import Request, Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api import __version__, sse
from api.audio import MEDIA_TYPES
from api.reading import read
from engine.config import SAMPLING_LIMITS
from schemas.errors import ErrorBody
from schemas.health import About, Health
from schemas.models import ModelCard, ModelList, ModelNames, VoiceList
from schemas.speech import AudioDelta, AudioDone, SpeechRequest

Json = dict[str, Any]

_ANSWERS: Final = (ErrorBody, ModelList, ModelCard, ModelNames, VoiceList, About, Health, AudioDelta, AudioDone)

_ERRORS: Final = {
    400: "The body is no JSON object, or a field is missing or wrong; `param` names it.",
    401: "No key, or a wrong one.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    429: "This key or address asks too often, or for too much at once.",
    500: "The speech could not be generated; asking again would not help.",
    503: "The server is loading, full or draining; Retry-After says when to come back.",
}
_WAITING: Final = (429, 503)

_EXAMPLES: Final = {
    "short": {"model": "tts-1", "voice": "tara", "input": "Hello there."},
    "events": {
        "model": "gpt-4o-mini-tts",
        "voice": {"id": "alloy"},
        "input": "The first words are heard before the last ones exist.",
        "response_format": "pcm",
        "stream_format": "sse",
    },
    "repeatable": {"model": "orpheus", "voice": "leo", "input": "Always the same.", "seed": 7, "speed": 1.25},
}
_EVENTS: Final = (
    'data: {"type":"speech.audio.delta","audio":"//PExAAA"}\r\n\r\n'
    'data: {"type":"speech.audio.done",'
    '"usage":{"input_tokens":10,"output_tokens":91,"total_tokens":101,"finish_reason":"stop"}}\r\n\r\n'
    "data: [DONE]\r\n\r\n"
)


@read("/openapi.json")
async def tell_openapi(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The document, as the settings make it."""
    state = request.app.state
    content = _document(state.key_ring.required, state.key_ring.required and not state.open_lists)
    return Response(content, media_type="application/json")


@cache
def _document(keys: bool, list_keys: bool) -> bytes:
    """The document; whether speech and whether the lists ask for a key."""
    return json.dumps(document(keys, list_keys), ensure_ascii=False, separators=(",", ":")).encode()


def document(keys: bool, list_keys: bool) -> Json:
    """The same as a dictionary."""
    about = "Text to speech that OpenAI's clients understand, streamed while it is generated."
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lyre",
            "version": __version__,
            "summary": about,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {**_speech_paths(keys), **_list_paths(list_keys), **_health_paths()},
        "components": {
            "schemas": _schemas(),
            "headers": _headers(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "azure": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def _speech_paths(keys: bool) -> Json:
    deployment = {"name": "deployment", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    deployment["description"] = "The model, for bodies that name none; otherwise it may be any name."
    return {
        "/v1/audio/speech": {"post": _speech("createSpeech", "SpeechRequest", keys)},
        "/openai/deployments/{deployment}/audio/speech": {
            "post": _speech("createDeploymentSpeech", "DeploymentSpeechRequest", keys),
            "parameters": [deployment],
        },
    }


def _speech(name: str, schema: str, keys: bool) -> Json:
    body = {"schema": _ref(schema), "examples": {name: {"value": value} for name, value in _EXAMPLES.items()}}
    audio: Json = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()}
    # No schema: in OpenAPI 3.1 it could only say that a stream of events is a string.
    events = {"example": _EVENTS}
    description = (
        "Answers as soon as the first audio exists. A failure before it is a true status; after it, the connection is "
        "cut and never ended cleanly. The content type is ignored: every body is read as JSON."
    )
    return {
        "operationId": name,
        "summary": "Speak a text",
        "description": description,
        "tags": ["speech"],
        "security": _security(keys),
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {
            "200": {
                "description": "The audio as asked, or server-sent events: AudioDelta, one AudioDone, [DONE].",
                "headers": _header_refs(),
                "content": {**audio, sse.MEDIA_TYPE: events},
            },
            **_errors(*_ERRORS),
        },
    }


def _list_paths(keys: bool) -> Json:
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    name["description"] = "One of the listed names; a slash in it may be escaped or not."
    return {
        "/v1/models": {"get": _listing("listModels", "The served model and its other names", ModelList, keys, 503)},
        "/v1/models/{model}": {
            "get": _listing("retrieveModel", "One of these names", ModelCard, keys, 404, 503),
            "parameters": [name],
        },
        "/v1/audio/models": {"get": _listing("listAudioModels", "The names alone", ModelNames, keys, 503)},
        "/v1/audio/voices": {"get": _listing("listVoices", "The voices", VoiceList, keys, 503)},
    }


def _listing(name: str, summary: str, answer: type[BaseModel], keys: bool, *errors: int) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["lists"],
        "security": _security(keys),
        "responses": {"200": _json("As asked.", answer), **_errors(*((401,) if keys else ()), *errors)},
    }


def _health_paths() -> Json:
    def telling(name: str, summary: str, answer: type[BaseModel], **more: Json) -> Json:
        told = {"200": _json("Yes.", answer), **more}
        return {"get": {"operationId": name, "summary": summary, "tags": ["health"], "security": [], "responses": told}}

    unready = {"503": _json("Not now: loading, draining, restarting or failed.", Health, "retry-after")}
    hung = {"503": _json("An engine process hangs, and is not replaced yet.", Health)}
    return {
        "/v1": telling("about", "What serves here", About),
        "/health/live": telling("live", "Does the process answer", Health, **hung),
        "/health/ready": telling("ready", "Can speech be asked for", Health, **unready),
        "/health": telling("health", "The same", Health, **unready),
    }


def _errors(*statuses: int) -> Json:
    return {
        str(status): _json(_ERRORS[status], ErrorBody, *(("retry-after",) if status in _WAITING else ()))
        for status in sorted(statuses)
    }


def _json(description: str, answer: type[BaseModel], *headers: str) -> Json:
    content = {"application/json": {"schema": _ref(answer.__name__)}}
    return {"description": description, "headers": _header_refs(*headers), "content": content}


def _security(keys: bool) -> list[Json]:
    return [{"bearer": []}, {"azure": []}] if keys else []


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _header_refs(*more: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", "openai-processing-ms", *more)}


def _headers() -> Json:
    def header(description: str, required: bool = True, **schema: Any) -> Json:
        return {"description": description, "required": required, "schema": schema}

    return {
        "x-request-id": header("The client's own or a new one.", type="string", pattern="^[A-Za-z0-9._-]{1,64}$"),
        "openai-processing-ms": header("Until the status was known.", type="integer", minimum=0),
        "retry-after": header("Seconds to wait.", type="integer", minimum=1, maximum=60),
    }


def _schemas() -> Json:
    modes = [(SpeechRequest, "validation"), *((answer, "serialization") for answer in _ANSWERS)]
    _, generated = models_json_schema(modes, ref_template="#/components/schemas/{model}")  # pyright: ignore[reportArgumentType]
    schemas = generated["$defs"]
    speech = schemas["SpeechRequest"]
    for name, (low, high) in SAMPLING_LIMITS.items():
        speech["properties"][name]["anyOf"][0] |= {"minimum": low, "maximum": high}
    # What the code checks beyond types, in the schema's words.
    speech["properties"]["input"] |= {"minLength": 1, "pattern": r"\S"}
    optional_model = {"anyOf": [speech["properties"]["model"], {"type": "null"}]}
    deployment = {**speech, "title": "DeploymentSpeechRequest", "properties": {**speech["properties"]}}
    deployment["properties"]["model"] = optional_model
    deployment["required"] = [name for name in speech["required"] if name != "model"]
    return {**schemas, "DeploymentSpeechRequest": deployment}
