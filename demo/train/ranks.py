"""The training processes of one machine, one a GPU, and what they agree on."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(minutes=3)


@dataclass(frozen=True)
class Control:
    """What rank 0 decided for the next steps."""

    progress: float
    gan: bool
    stop: bool


class Ranks:
    """The group of training processes; alone, every call is free."""

    def __init__(self, rank: int, world: int, device: torch.device, port: int) -> None:
        self.rank, self.world, self.device = rank, world, device
        if world > 1:
            backend = "nccl" if device.type == "cuda" else "gloo"
            address = f"tcp://127.0.0.1:{port}"
            dist.init_process_group(backend, init_method=address, rank=rank, world_size=world, timeout=PATIENCE)

    def broadcast(self, tensor: Tensor) -> None:
        if self.world > 1:
            dist.broadcast(tensor, 0)

    def average(self, tensor: Tensor) -> None:
        if self.world > 1:
            dist.all_reduce(tensor)
            tensor.div_(self.world)

    def agree(self, control: Control) -> Control:
        """Rank 0's view, everywhere. Reading it also keeps the host from running far ahead of the device."""
        numbers = torch.tensor([control.progress, control.gan, control.stop], dtype=torch.float64, device=self.device)
        self.broadcast(numbers)
        progress, gan, stop = numbers.tolist()
        return Control(progress, bool(gan), bool(stop))

    def close(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
