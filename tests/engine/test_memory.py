"""The number of slots is bounded by memory, and the error says what fits."""

from __future__ import annotations

import pytest
import torch

from engine import ConfigError
from engine.model.checkpoint import dummy_checkpoint
from engine.model.memory import SHARE, check_room, slot_bytes


def test_a_token_of_the_real_model_takes_114688_bytes() -> None:
    assert slot_bytes(dummy_checkpoint("orpheus-3b").shape, 1, torch.bfloat16) == 114_688


def test_what_fits_is_taken_and_one_more_is_refused() -> None:
    free, each = 80 * 2**30, 2**28
    fit = int(SHARE * free) // each
    check_room(fit, each, free)
    with pytest.raises(ConfigError, match=rf"^.*{fit + 1} streams need .* 80\.0 GiB are free .* {fit} fit"):
        check_room(fit + 1, each, free)
