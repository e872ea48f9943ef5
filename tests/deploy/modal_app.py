"""deploy/modal as Modal sees it: deployed to the stand-in by the real command, imported as a container imports it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.deploy.control_plane import ControlPlane

ROOT = Path(__file__).parents[2]
APP = ROOT / "deploy/modal/app.py"
PATIENCE = 120.0


def modal_command(plane: ControlPlane, verb: str, *flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`modal VERB deploy/modal/app.py FLAGS` against the stand-in, with these variables beside those that it needs."""
    own = {
        "MODAL_SERVER_URL": plane.url,
        "MODAL_TOKEN_ID": "ak-test",
        "MODAL_TOKEN_SECRET": "as-test",
        "MODAL_CONFIG_PATH": os.devnull,
    }
    return subprocess.run(
        [sys.executable, "-m", "modal", verb, str(APP), *flags],
        env=clean_environ() | own | environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def clean_environ() -> dict[str, str]:
    """The environment without a developer's own settings and Modal account."""
    foreign = ("LYRE_", "ON_MODAL_", "MODAL_", "HF_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def environment_of(plane: ControlPlane, position: int) -> dict[str, str]:
    """The variables that a deployed function is given: the server is the first, the download of weights the second."""
    made = [call for call in plane.calls["SecretGetOrCreate"] if call.env_dict]
    return dict(made[position].env_dict)


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of deploy/modal, its neighbours importable as in a container."""
    monkeypatch.syspath_prepend(str(APP.parent))
    spec = importlib.util.spec_from_file_location(f"lyre_modal_{name}", APP.parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def hooks(container: Any) -> tuple[Any, Any]:
    """What Modal calls when a container begins and ends, found as Modal's own container code finds it."""
    from modal._partial_function import _find_callables_for_obj, _PartialFunctionFlags

    (enter,) = _find_callables_for_obj(container, _PartialFunctionFlags.ENTER_POST_SNAPSHOT).values()
    (leave,) = _find_callables_for_obj(container, _PartialFunctionFlags.EXIT).values()
    return enter, leave
