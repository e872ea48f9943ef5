"""`null` is absence: how JSON schemas say what the validators do."""

from typing import Any


def optional_takes_null(schema: dict[str, Any]) -> None:
    """Let every optional property of an object's schema be null; for pydantic's `json_schema_extra`."""
    for name, prop in schema["properties"].items():
        if name not in schema.get("required", ()) and {"type": "null"} not in prop.get("anyOf", ()):
            kept = {key: prop.pop(key) for key in ("default", "description", "title") if key in prop}
            schema["properties"][name] = {"anyOf": [prop, {"type": "null"}], **kept}
