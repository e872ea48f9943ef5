"""`/` and the files it loads: read once at the start, answered from memory, open to everybody and without any secret.

The browser asks again each time and is told 304; the policy lets the page load, run and call nothing but this server.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from litestar import Request, Response
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from api.context import AppContext
from api.reading import read

FOLDER: Final = Path(__file__).parent / "static"
POLICY: Final = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"

_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class StaticFile:
    """A file's bytes and the headers that go with them."""

    content: bytes
    headers: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "StaticFile":
        """The file at `path`; its suffix must be a known one."""
        content = path.read_bytes()
        headers = {
            "content-type": _MEDIA_TYPES[path.suffix],
            "etag": f'"{hashlib.sha256(content).hexdigest()[:20]}"',
            "cache-control": "no-cache",
            "content-security-policy": POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        return cls(content, headers)

    def answer(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        """200, or 304 for a browser that has this very version."""
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self.headers["etag"] in known or "*" in known:
            return Response(b"", status_code=304, headers=self.headers)
        return Response(self.content, headers=self.headers)


FILES: Final = {path.name: StaticFile.read(path) for path in sorted(FOLDER.iterdir())}


@read("/")
async def show_page(request: Request[Any, Any, Any], context: NamedDependency[AppContext]) -> Response[bytes]:
    """The page itself; 404 where the operator turned it off."""
    return _answer("index.html", request, context)


@read("/playground/{name:str}")
async def page_file(
    name: FromPath[str], request: Request[Any, Any, Any], context: NamedDependency[AppContext]
) -> Response[bytes]:
    """One of the page's scripts, styles, fonts or pictures."""
    return _answer(name, request, context)


@read("/favicon.ico")
async def favicon(request: Request[Any, Any, Any], context: NamedDependency[AppContext]) -> Response[bytes]:
    """The icon where browsers look that were not told."""
    return _answer("favicon.svg", request, context)


def _answer(name: str, request: Request[Any, Any, Any], context: AppContext) -> Response[bytes]:
    if not context.settings.playground or name not in FILES:
        raise NotFoundException
    return FILES[name].answer(request)
