"""A frame between its launch and its landing: on a GPU the host is free meanwhile, on a CPU there is no meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Flight:
    """codes int32 [B, 7] on the device; `ended` [B] on the CPU, zero for a row that speaks on, valid once `done`.

    `copy`: the codes on the CPU, as valid, where the model makes one beside its work. The device notes the time at
    `begun` and `done`.
    """

    codes: Tensor
    ended: Tensor
    done: torch.cuda.Event | None = None
    begun: torch.cuda.Event | None = None
    copy: Tensor | None = None

    def land(self) -> list[bool]:
        """Waits for the frame; -> for each row whether its speech ended instead. `codes` are there from now on."""
        if self.done is not None:
            self.done.synchronize()
        return self.ended.bool().tolist()

    @property
    def heard(self) -> NDArray[np.int32]:
        """The codes, for the host to read. Once it has landed nothing is waited for, but without a `copy` for a GPU."""
        return (self.codes if self.copy is None else self.copy).numpy(force=True)

    @property
    def seconds(self) -> float | None:
        """How long the device worked on it, once it has landed; None where no device keeps the time."""
        return self.begun.elapsed_time(self.done) / 1000 if self.begun and self.done else None
