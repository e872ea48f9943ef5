"""One training step on one device: batch, loss, gradient, average over ranks, optimizer.

On a GPU the step is two CUDA graphs with the all-reduce between them, so the host only replays. Capture comes before
the process group exists: NCCL's watchdog must not disturb it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from demo.train.lm_model import STATISTICS, Shape, forward, leaves, make_parts, rope_table
from demo.train.muon import Optimizer, Recipe
from demo.train.packing import Corpus, Room, assemble, plan_epoch

WARM_UP_RUNS = 3


@dataclass(frozen=True)
class Settings:
    """What a step needs to know besides its data."""

    dropout: float = 0.1
    corrupt: float = 0.02
    compiled: bool = True
    graphs: bool = True
    recipe: Recipe = field(default_factory=Recipe)


def compute_type(device: torch.device) -> torch.dtype:
    """bf16 on a GPU; fp32 on a CPU, where bf16 is slow and tests want exactness."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


class Step:
    """The state of training on one device. `run` does one step; `statistics` adds up until `take_statistics`."""

    def __init__(self, master: Tensor, shape: Shape, corpus: Corpus, room: Room, settings: Settings, seed: int) -> None:
        device = master.device
        self.shape, self.corpus, self.room, self.settings = shape, corpus, room, settings
        self.random = np.random.default_rng(seed)
        self.planner = ThreadPoolExecutor(1)
        self.next_plan = self.planner.submit(plan_epoch, corpus, room, self.random)
        self.compute = master.to(compute_type(device), copy=True)
        self.tensors = [leaf.detach().requires_grad_() for leaf in leaves(self.compute, shape)]
        self.grad = torch.zeros_like(self.compute)
        self.grads = leaves(self.grad, shape)
        self.optimizer = Optimizer(shape, master, self.compute, self.grad, settings.recipe)
        self.rope = rope_table(shape, device)
        self.parts = make_parts(shape, room.longest, settings.dropout, settings.compiled)
        self.statistics = torch.zeros(2, STATISTICS, device=device)
        self.turn = torch.zeros(1, dtype=torch.long, device=device)
        self.plan = torch.zeros(0, room.documents, 4, dtype=torch.int32, device=device)
        self.epochs, self.left = 0, 0
        self._plan_epoch()
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.pace = ""  # milliseconds of gradient + optimizer, once captured

    def prepare(self) -> None:
        """Compile, and capture the graphs if the settings say so. Leaves weights and state as they were."""
        if self.compute.is_cuda:
            self._warm_up()
            if self.settings.graphs:
                self.graphs = [self._captured(self._backward), self._captured(self.optimizer.step)]
            self.pace = " + ".join(f"{self._time(graph.replay):.2f}" for graph in self.graphs)
        self._reset()

    def run(self) -> None:
        """One step on the next batch."""
        if not self.left:
            self._plan_epoch()
        self.left -= 1
        first, second = [graph.replay for graph in self.graphs] or (self._backward, self.optimizer.step)
        first()
        if dist.is_initialized():
            dist.all_reduce(self.grad)
            self.grad.div_(dist.get_world_size())
        second()

    def take_statistics(self) -> list[float]:
        """Mean losses (a slot each, end of speech, leak) since the last call."""
        sums, counts = self.statistics.tolist()
        self.statistics.zero_()
        return [total / max(count, 1.0) for total, count in zip(sums, counts, strict=True)]

    def _backward(self) -> None:
        row = self.plan.index_select(0, self.turn)[0]
        batch = assemble(row, self.corpus, self.room, self.settings.corrupt)
        loss, statistics = forward(self.tensors, batch, self.rope, self.parts)
        # autograd.grad leaves no gradient accumulators behind, whose streams a later capture would trip over.
        torch._foreach_copy_(self.grads, torch.autograd.grad(loss, self.tensors))
        self.statistics.add_(statistics)
        self.turn.add_(1)

    def _plan_epoch(self) -> None:
        plan = self.next_plan.result()
        self.next_plan = self.planner.submit(plan_epoch, self.corpus, self.room, self.random)
        if not self.epochs:
            spare = len(plan) // 8 + 4  # later epochs pack a little better or worse
            self.plan = self.plan.new_zeros((len(plan) + spare, *self.plan.shape[1:]))
        plan = plan[: len(self.plan)]
        self.plan[: len(plan)].copy_(torch.from_numpy(plan))
        self.turn.zero_()
        self.epochs, self.left = self.epochs + 1, len(plan)

    def _warm_up(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                self._backward()
                self.turn.zero_()
                self.optimizer.step()  # at rate zero
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()

    @staticmethod
    def _captured(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
        return graph

    def _time(self, work: Callable[[], None], times: int = 8) -> float:
        """Mean milliseconds of a graph's replay."""
        self.turn.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(times):
            work()
            self.turn.zero_()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / times

    def _reset(self) -> None:
        self.optimizer.reset()
        self.statistics.zero_()
        self.turn.zero_()


@torch.no_grad()
def evaluate(flat: Tensor, shape: Shape, corpus: Corpus, tokens: int) -> list[float]:
    """Mean losses (a slot each, end of speech, leak) of fp32 weights on a whole corpus, without dropout."""
    room = Room(tokens, len(corpus) + tokens // corpus.longest + 2, -(-tokens // 448) * 64, corpus.longest)
    tensors = leaves(flat.to(compute_type(flat.device)), shape)
    parts, rope = make_parts(shape, room.longest, 0.0, compiled=False), rope_table(shape, flat.device)
    plan = torch.from_numpy(plan_epoch(corpus, room, np.random.default_rng(0), augment=False)).to(flat.device)
    total = torch.zeros(2, STATISTICS, device=flat.device)
    for row in plan:
        total += forward(tensors, assemble(row, corpus, room, 0.0), rope, parts)[1]
    sums, counts = total.tolist()
    return [one / max(count, 1.0) for one, count in zip(sums, counts, strict=True)]
