"""What schemathesis cannot know from the document: which names exist, and that speech costs time."""

from typing import Any

import schemathesis

SHORT = 7
"""Audio codes of one frame, the least that is spoken."""


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Names that are just strings become names that exist; whatever is spoken is as short as can be."""
    body = case.body
    if not isinstance(body, dict):
        return
    for name, known in (("model", "tts-1"), ("voice", "tara")):
        if isinstance(body.get(name), str) and body[name]:
            body[name] = known
    voice = body.get("voice")
    if isinstance(voice, dict) and isinstance(voice.get("id"), str) and voice["id"]:
        voice["id"] = "leo"
    asked = body.get("max_tokens")
    if asked is None or (isinstance(asked, int) and not isinstance(asked, bool) and SHORT < asked <= 1_000_000):
        body["max_tokens"] = SHORT
