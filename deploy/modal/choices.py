"""What may be chosen when Lyre is deployed to Modal: ON_MODAL_* variables, checked, and the server's own LYRE_* ones.

Read on the machine that deploys and, with the same values, again in the containers. Knows nothing of Modal.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

PREFIX: Final = "ON_MODAL_"
PORT: Final = 8000

DRAIN_SECONDS: Final = 180
"""Time that running requests get when a container is taken away."""

STOP_SECONDS: Final = 200
"""Until the server's process must have ended: the drain, and the engine's own end."""

EXIT_SECONDS: Final = 210
"""Until Modal kills the container."""

MODEL: Final = "canopylabs/orpheus-3b-0.1-ft"
REVISION: Final = "4206a56e5a68cf6cf96900a8a78acd3370c02eb6"
CODEC: Final = "hubertsiuzdak/snac_24khz"
CODEC_REVISION: Final = "d73ad176a12188fcf4f360ba3bf2c2fbbe8f58ec"

_AUTHS: Final = ("keys", "proxy", "both")
_TRUE_AND_FALSE: Final = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Choices:
    """Each field is ON_MODAL_<NAME>.

    `gpu`: one type or several in order of preference, with commas; "!" is Modal's sign for no silent upgrade.
    `streams` at once in a container, above which Modal answers 429, and `target`, at which it starts another one.
    `min_containers` are always warm: with 0, callers get 503 for as long as a start takes. `buffer_containers` are
    started beyond what is needed. `scaledown_window`: seconds that an idle container stays.
    `region` is where containers run, `routing_region` where requests enter.
    `auth`: "keys" (the server's own, from the Secret `secret`), "proxy" (Modal's tokens) or "both"; never neither.
    `snapshot`: starts from a snapshot of the GPU's memory, which Modal calls experimental.
    """

    gpu: str = "H100!"
    streams: int = 16
    target: int = 12
    min_containers: int = 1
    max_containers: int = 10
    buffer_containers: int = 1
    scaledown_window: int = 300
    region: str = ""
    routing_region: str = "us-east"
    cloud: str = ""
    nonpreemptible: bool = False
    auth: str = "keys"
    secret: str = "lyre-keys"
    snapshot: bool = False

    def __post_init__(self) -> None:
        if self.auth not in _AUTHS:
            raise ValueError(f"{PREFIX}AUTH: {self.auth!r} is not one of {', '.join(_AUTHS)}")
        if not 1 <= self.target <= self.streams:
            raise ValueError(f"{PREFIX}TARGET: {self.target} is not between 1 and the {self.streams} streams")
        if not 0 <= self.min_containers <= self.max_containers or self.max_containers < 1:
            raise ValueError(f"{PREFIX}MAX_CONTAINERS: must be at least 1, and no less than the smallest number")
        if self.needs_keys and not self.secret:
            raise ValueError(f"{PREFIX}SECRET: the name of the Secret that holds LYRE_API_KEYS")

    @property
    def needs_keys(self) -> bool:
        """Whether the server checks keys of its own."""
        return self.auth in ("keys", "both")

    @property
    def unauthenticated(self) -> bool:
        """Whether Modal lets everybody through; only where the server asks for a key."""
        return self.auth == "keys"


def choose(environ: Mapping[str, str]) -> Choices:
    """The choices that the variables make; ValueError names the variable that is unknown or wrong."""
    types = {field.name: field.type for field in fields(Choices)}
    given = {name.removeprefix(PREFIX).lower(): value for name, value in environ.items() if name.startswith(PREFIX)}
    if unknown := sorted(given.keys() - types.keys()):
        raise ValueError(f"{PREFIX}{unknown[0].upper()}: no such choice; known: {', '.join(types)}")
    return Choices(**{name: _parsed(name, value.strip(), types[name]) for name, value in given.items()})


def server_settings(environ: Mapping[str, str], choices: Choices) -> dict[str, str]:
    """The variables of the server's process; what LYRE_* variables say on the machine that deploys is stronger.

    Raises ValueError for keys, which belong into a Secret, for a preset, and for a model of the hub without a commit.
    """
    given = {name: value for name, value in environ.items() if name.startswith("LYRE_")}
    if "LYRE_PRESET" in given:
        raise ValueError(f"LYRE_PRESET: places are {PREFIX}STREAMS here, which Modal must know, too")
    if wrong := sorted(given.keys() & {"LYRE_API_KEYS", "LYRE_API_KEYS_FILE", "LYRE_HOST", "LYRE_PORT"}):
        raise ValueError(f"{wrong[0]} cannot be set here; keys belong into the Secret {choices.secret!r}")
    settings = {
        "LYRE_HOST": "0.0.0.0",
        "LYRE_PORT": str(PORT),
        "LYRE_MODEL": MODEL,
        # Without a model it is the demo voice, which has a codec of its own.
        "LYRE_CODEC": CODEC if given.get("LYRE_MODEL", MODEL) else "",
        "LYRE_CACHE": "/cache/lyre",
        "LYRE_MAX_CONCURRENCY": str(choices.streams),
        "LYRE_DRAIN_SECONDS": str(DRAIN_SECONDS),
        **given,
    }
    if settings["LYRE_MODEL"] and "LYRE_DEVICES" not in given:
        # A container whose GPU is not found must fail, not speak on its cores.
        settings.setdefault("LYRE_DEVICE", "cuda")
    if float(settings["LYRE_DRAIN_SECONDS"]) > DRAIN_SECONDS:
        raise ValueError(f"LYRE_DRAIN_SECONDS: containers here have {DRAIN_SECONDS} s")
    for source, revision, known in (
        ("LYRE_MODEL", "LYRE_REVISION", {MODEL: REVISION}),
        ("LYRE_CODEC", "LYRE_CODEC_REVISION", {CODEC: CODEC_REVISION}),
    ):
        name = settings[source]
        if name and not name.startswith("/"):
            settings.setdefault(revision, known.get(name, ""))
            if not _COMMIT.fullmatch(settings[revision]):
                raise ValueError(f"{revision}: {name} needs the 40 digits of a commit")
    return settings


def _parsed(name: str, value: str, kind: object) -> Any:
    try:
        return int(value) if kind is int else _TRUE_AND_FALSE[value.lower()] if kind is bool else value
    except (ValueError, KeyError):
        raise ValueError(f"{PREFIX}{name.upper()}: {value!r} cannot be read") from None
