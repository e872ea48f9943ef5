"""Which web pages may call: the access-control headers of every answer, an error's too.

Keys travel in a header that a script must set itself; there are no cookies, so "*" lends no page a user's rights.
"""

from collections.abc import Iterable
from typing import Final

from litestar.datastructures import Headers, MutableScopeHeaders
from litestar.types import Message, Scope

_METHODS: Final = "GET, HEAD, POST, OPTIONS"
_PREFLIGHT_SECONDS: Final = 600


class Cors:
    """The allowed origins; "*" among them allows all, none at all turns CORS off."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)

    async def mark_response(self, message: Message, scope: Scope) -> None:
        """Litestar's before_send hook. A refused origin gets no headers; its browser then keeps the answer from it."""
        if message["type"] != "http.response.start" or not self._origins:
            return
        sent = MutableScopeHeaders.from_message(message)
        asked = Headers.from_scope(scope)
        everybody = "*" in self._origins
        if not everybody:
            # For caches: the answer to another origin differs.
            sent["vary"] = "origin"
        origin = asked.get("origin")
        if origin is None or not (everybody or origin in self._origins):
            return
        sent["access-control-allow-origin"] = "*" if everybody else origin
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            sent["access-control-allow-methods"] = _METHODS
            # All that is asked for: SDKs send a dozen x-stainless-* headers, and none that is allowed does harm.
            sent["access-control-allow-headers"] = asked.get("access-control-request-headers", "authorization")
            sent["access-control-max-age"] = str(_PREFLIGHT_SECONDS)
