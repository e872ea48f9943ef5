"""API keys: which are accepted, and the guard that asks for one before the body is read."""

import hashlib
import hmac
import logging
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.datastructures import Headers
from litestar.handlers import BaseRouteHandler

from api.errors import ApiError
from api.settings import KEY_RULE, is_key
from engine import ConfigError

log = logging.getLogger("lyre")

_CHALLENGE: Final = {"www-authenticate": "Bearer"}


class KeyRing:
    """The accepted keys, as digests. A key file is read again when it changes, so keys rotate without a restart."""

    def __init__(self, keys: Iterable[str], file: Path | None = None) -> None:
        self._given = frozenset(map(_digest, keys))
        self._file = file
        self._from_file: frozenset[bytes] = frozenset()
        self._stamp: tuple[int, int, int] | None = None
        self._problem = ""
        if file is not None:
            try:
                self._reload(file)
            except OSError as error:
                raise ConfigError("api_keys_file", f"{file}: {error.strerror}") from None
            except ValueError as error:
                raise ConfigError("api_keys_file", f"{file}: {error}") from None
            if not self._from_file:
                raise ConfigError("api_keys_file", f"{file} holds no key")

    @property
    def required(self) -> bool:
        """Whether requests need a key at all; a key file that was emptied later locks everybody out."""
        return bool(self._given) or self._file is not None

    def accepts(self, key: str) -> bool:
        """Whether this is a valid key; takes the same time for every wrong one."""
        self._refresh()
        digest = _digest(key)
        # Summed, not any(): every known key is compared, whichever matches.
        return sum(hmac.compare_digest(digest, known) for known in (*self._given, *self._from_file)) > 0

    def _refresh(self) -> None:
        if self._file is None:
            return
        problem = ""
        try:
            if _stamp(self._file) != self._stamp:
                self._reload(self._file)
        except (OSError, ValueError) as error:
            problem = str(error)
        if problem and problem != self._problem:
            # Once, not for every request that meets it.
            log.warning("the key file cannot be used, the last keys stay valid: %s", problem)
        self._problem = problem

    def _reload(self, file: Path) -> None:
        stamp = _stamp(file)
        self._from_file = frozenset(map(_digest, file_keys(file.read_bytes())))
        self._stamp = stamp


async def require_key(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Litestar guard: 401 unless keys are off or the request bears a good one."""
    keys: KeyRing = connection.app.state.key_ring
    if not keys.required:
        return
    key = _given_key(connection.headers)
    if not key:
        message = "You didn't provide an API key. Provide it in an Authorization header as 'Bearer YOUR_KEY'."
        raise ApiError(401, message, outcome="unauthorized", headers=_CHALLENGE)
    if not keys.accepts(key):
        message = f"Incorrect API key provided: {_masked(key)}."
        raise ApiError(401, message, code="invalid_api_key", outcome="unauthorized", headers=_CHALLENGE)


async def require_list_key(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """The same for the lists of models and voices, which are open unless the settings say otherwise."""
    if not connection.app.state.open_lists:
        await require_key(connection, handler)


def caller(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Who asks, for counting: the digest of a key or, where no keys are asked for, the client's address."""
    if connection.app.state.key_ring.required:
        return _digest(_given_key(connection.headers)).hex()
    return _household(connection.client.host) if connection.client else ""


def _household(host: str) -> str:
    """Who has one IPv6 address has 2**64 of them: they count as one."""
    if ":" not in host:
        return host
    return str(ip_network((host.partition("%")[0], 64), strict=False))


def _given_key(headers: Headers) -> str:
    """The key as OpenAI's clients send it or, when they do not, as Azure's do; empty for none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    key = key.strip()
    return key if scheme.lower() == "bearer" and key else headers.get("api-key", "").strip()


def file_keys(content: bytes) -> Iterator[str]:
    """The keys of a file; raises ValueError for a line that no header could carry, and never tells what it says."""
    try:
        # Windows' editors put a mark before the first key.
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if key and not key.startswith("#"):
            if not is_key(key):
                raise ValueError(f"line {number} is no key: {KEY_RULE}")
            yield key


def _masked(key: str) -> str:
    return f"{key[:8]}****{key[-4:]}" if len(key) >= 16 else "****"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size
