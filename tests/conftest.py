"""What every test shares. Nothing here imports torch before a test asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.tiny import TinyLlama

# Without a GPU, Triton's kernels run in its interpreter. Triton asks for this once, when it is first imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Property tests draw the same examples everywhere and have no deadline: a slow machine is no failure.
settings.register_profile("lyre", deadline=None, derandomize=True, database=None, max_examples=100)
settings.load_profile("lyre")


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for compiled kernels: they are built once in a session, from the sources under test."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TinyLlama], Path]:
    """`llama_folder(spec)`: a model folder, written once for a spec and not to be changed."""
    from tests import tiny

    written: dict[str, Path] = {}

    def folder(spec: TinyLlama) -> Path:
        if str(spec) not in written:
            written[str(spec)] = tiny.write_llama(tmp_path_factory.mktemp("llama"), spec)
        return written[str(spec)]

    return folder


@pytest.fixture(scope="session")
def tiny_model(llama_folder: Callable[[TinyLlama], Path]) -> Path:
    """A model folder that both the torch and the native engine run; its speech never ends by itself."""
    from tests import tiny

    return llama_folder(tiny.TinyLlama())


@pytest.fixture(scope="session")
def ending_model(llama_folder: Callable[[TinyLlama], Path]) -> Path:
    """A model folder whose speech ends after some frames."""
    from tests import tiny

    return llama_folder(tiny.TinyLlama(tied=False, end_gain=6.0, seed=5))


@pytest.fixture(scope="session")
def small_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec folder that only the torch decoder can run, for speed."""
    from tests import tiny

    return tiny.write_snac(tmp_path_factory.mktemp("codec-32"), decoder_dim=32)


@pytest.fixture(scope="session")
def native_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec folder that the CPU kernel runs."""
    from tests import tiny

    return tiny.write_snac(tmp_path_factory.mktemp("codec-512"), decoder_dim=512)
