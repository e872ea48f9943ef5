"""One way out of damaged files: whatever a parser raises becomes a CheckpointError that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import CheckpointError


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Turns any error inside into a CheckpointError about `what`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        # This broad because tokenizers, safetensors and pickle raise anything on a damaged file.
        reason = f"{type(error).__name__}: {error}"[:300]
        raise CheckpointError(f"{what} is damaged or of another kind; download it again ({reason})") from error
