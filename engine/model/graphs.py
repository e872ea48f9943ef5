"""The language model on CUDA: a whole 7-token frame is one graph replay, with sampling and all state on the device.

One graph for each batch size of `BATCHES`, and one for each with prompts beside its rows; rows without a stream are
skipped. The results of TorchLlama to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from engine.errors import ConfigError
from engine.model.backends import TritonAttention, attention_backend
from engine.model.flight import Flight
from engine.model.fused import FusedStep, Prompts
from engine.model.kernels.chain import launches_early
from engine.model.kernels.prompt import attend_prompts
from engine.model.kernels.rope import turn_and_keep
from engine.model.kernels.sampling import draw
from engine.model.plans import Plan, hopper, plans_of
from engine.model.prompts import FEW_TOKENS, few_tokens, many_tokens
from engine.model.rope import rope_tables
from engine.model.slots import SlotState
from engine.model.weights import LlamaShape, LlamaWeights
from engine.prompt import FRAME_TOKENS, TokenLayout

BATCHES = (1, 2, 4, 8, 16, 32, 64, *range(96, 513, 32))
PROMPTS = (32, 64, 128, 256, 512, 1024, 2048)  # no piece of text has more tokens; a longer prompt is a graph of its own
TOGETHER = (1, 2, 4, 8)  # prompts of one pass
MOST_TOKENS = 512  # of a pass with several prompts
BESIDE = ((1, 32), (2, 16), (1, 48))  # prompts that a frame's first step reads beside its rows: how many, of what size


class GraphLlama:
    """Needs CUDA and Triton, and what `supports` says; the weights' dtype is the arithmetic's."""

    name = "triton"
    prefill_piece = None  # prompts are short: a whole one is a single pass

    def __init__(
        self, shape: LlamaShape, weights: LlamaWeights, layout: TokenLayout, slots: int, context: int,
        invariant: bool = False, attention: str = "auto", kv_dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        """The weights' norms are folded, here if they are not.

        `invariant`: all batches run by one plan, so that a stream's bits never depend on how many others there are.

        `attention`: auto, triton, flash or sdpa. `kv_dtype`: that of keys and values, the arithmetic's unless it is
        float8_e4m3fn. ConfigError when there are more slots than a plan of fixed cuts has rows, or when that attention
        cannot be had.
        """
        self.shape, self.weights, self.layout, self.context = shape, weights, layout, context
        weights.fold_norms()
        device, dtype = weights.embed.device, weights.embed.dtype
        cache = (shape.layers, slots, shape.kv_heads, context, shape.head_dim)
        self.keys = torch.zeros(cache, dtype=kv_dtype or dtype, device=device)
        self.values = torch.zeros(cache, dtype=kv_dtype or dtype, device=device)
        backend = attention_backend(attention, self.keys, dtype, invariant)
        self.attention = backend.name
        cos, sin = rope_tables(shape.rope, shape.head_dim, context, device)
        self.state = SlotState(slots, device)
        self.batches = _batches(slots)
        kernels = hopper(shape, weights, self.keys)
        if self.attention != TritonAttention.name:
            kernels = replace(kernels, attention=False)
        plans = plans_of(weights, self.keys, invariant, kernels)
        self._tiles = next(plan.tiles for plan in plans if plan.rows >= FEW_TOKENS)
        if invariant:
            plans = (_fixed_plan(plans, self.batches[-1]),)
        early = launches_early(device)
        # Short prompts go through a step's kernels; beside its rows only where those may round otherwise for it.
        self._few = not weights.quantised and self.attention == TritonAttention.name
        self._beside = BESIDE if self._few and not invariant else ()
        rows = max(self.batches[-1], FEW_TOKENS if self._beside else 0)
        self.step = FusedStep(shape, weights, self.keys, self.values, cos, sin, self.state, rows, early, plans, backend)
        self.codes = torch.zeros(self.batches[-1], FRAME_TOKENS, dtype=torch.int32, device=device)
        self.ended = torch.zeros(self.batches[-1], dtype=torch.int32, device=device)
        self.limits = torch.tensor([1, context - 1], dtype=torch.int64, device=device)
        self._min_frames = 1
        # A library's product of more rows may round otherwise.
        self._together = TOGETHER[:1] if invariant else TOGETHER
        self._sizes = tuple(sorted({min(size, context) for size in PROMPTS}))
        self._slots = torch.zeros(TOGETHER[-1], dtype=torch.int64, device=device)
        self._ids = torch.zeros(max(context, MOST_TOKENS), dtype=torch.int64, device=device)
        self._joining: dict[int, list[int]] = {}  # prompts by their slots, whose next frame needs them
        self._pool = torch.cuda.graph_pool_handle()
        self._frames: dict[tuple[int, tuple[int, int] | None], torch.cuda.CUDAGraph] = {}
        self._prompts: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def warm_up(self, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Compiles and captures everything now; else each size is captured when it is first needed.

        `progress` is told of each graph, of how many, before it is made.
        """
        makers = [
            partial(self._frame_graph, count, shape)
            for count in reversed(self.batches)
            for shape in (None, *self._shapes(count))
        ]
        for size in reversed(self._sizes):
            for count in reversed(self._together):
                if count == 1 or count * size <= MOST_TOKENS:
                    makers.append(partial(self._prompt_graph, count, size))
        for done, make in enumerate(makers):
            progress(done + 1, len(makers))
            make()

    def prefill(self, slot: int, ids: list[int]) -> None:
        """Writes a prompt's keys and values into a slot, from position 0."""
        self.prefill_all([(slot, ids)])

    def prefill_all(self, prompts: list[tuple[int, list[int]]]) -> None:
        """Writes the keys and values of prompts into their slots, prompts of similar lengths in one pass."""
        prompts = sorted(prompts, key=lambda prompt: len(prompt[1]), reverse=True)
        while prompts:
            longest = len(prompts[0][1])
            if longest > self.context:
                raise IndexError(f"{longest} tokens do not fit a slot's {self.context}")
            size = next((size for size in self._sizes if size >= longest), self.context)
            count = max(count for count in self._together if count == 1 or count * size <= MOST_TOKENS)
            self._prefill(prompts[:count], size)
            prompts = prompts[count:]

    def join(self, prompts: list[tuple[int, list[int]]]) -> None:
        """As `prefill_all`, but with their slots' next frame, whose first step reads them if they are few and short."""
        self._joining |= dict(prompts)

    def _join(self, slots: list[int], count: int) -> tuple[int, int] | None:
        """-> the shape of the prompts that a frame of `count` rows is to read; those that it cannot are read now.

        Of slots that have no row in it prompts stay: who left is not read, who was left out joins later.
        """
        prompts = [(slot, self._joining.pop(slot)) for slot in slots if slot in self._joining]
        longest = max((len(ids) for _, ids in prompts), default=0)
        for many, size in self._shapes(count) if prompts else ():
            if len(prompts) <= many and longest <= size:
                self._upload(prompts, many, size)
                return many, size
        self.prefill_all(prompts)
        return None

    def _shapes(self, count: int) -> list[tuple[int, int]]:
        """Of prompts beside `count` rows."""
        return [
            (many, size) for many, size in self._beside if count + many * size <= FEW_TOKENS and size <= self.context
        ]

    def _prefill(self, prompts: list[tuple[int, list[int]]], size: int) -> None:
        count = next(count for count in TOGETHER if count >= len(prompts))
        self._upload(prompts, count, size)
        self._prompt_graph(count, size).replay()

    def _upload(self, prompts: list[tuple[int, list[int]]], count: int, size: int) -> None:
        # Padding repeats the first prompt, which then is written twice.
        prompts = prompts + prompts[:1] * (count - len(prompts))
        slots = torch.tensor([slot for slot, _ in prompts]).pin_memory()
        ids = torch.tensor([ids + [0] * (size - len(ids)) for _, ids in prompts]).pin_memory()
        self._slots[:count].copy_(slots, non_blocking=True)
        self._ids[: count * size].copy_(ids.flatten(), non_blocking=True)

    def launch(self, slots: list[int], min_frames: int) -> Flight:
        """Starts seven steps for each slot and returns at once; later launches wait for it on the device."""
        count = next(size for size in self.batches if size >= len(slots))
        graph = self._frame_graph(count, self._join(slots, count))
        rows = torch.tensor(slots + [-1] * (count - len(slots)), dtype=torch.int32).pin_memory()
        self.step.rows[:count].copy_(rows, non_blocking=True)
        if min_frames != self._min_frames:
            self.limits[0], self._min_frames = min_frames, min_frames
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        graph.replay()
        ended = torch.empty(len(slots), dtype=torch.int32, pin_memory=True)
        ended.copy_(self.ended[: len(slots)], non_blocking=True)
        codes = self.codes[: len(slots)].clone()
        copy = torch.empty(codes.shape, dtype=torch.int32, pin_memory=True)
        copy.copy_(codes, non_blocking=True)
        done.record()
        return Flight(codes, ended, done, begun, copy)

    def decode_frame(self, slots: list[int], length: int, min_frames: int) -> tuple[Tensor, Tensor]:
        """Seven steps for each slot; -> codes int32 [B, 7] on the device, whether the row ended, bool [B] on the CPU.

        `length` bounds every row's position + 7. The codes of a row that ended are undefined.
        """
        if length > self.context:
            raise IndexError(f"position {length - 1} lies outside of a slot's {self.context} tokens")
        flight = self.launch(slots, min_frames)
        ended = flight.land()
        return flight.codes, torch.tensor(ended)

    @torch.inference_mode()
    def frame(self, count: int, shape: tuple[int, int] | None = None) -> None:
        """The seven steps of the first `count` rows: what a graph records. `shape`: of prompts that the first reads."""
        rows = self.step.rows[:count]
        embedding = self.step.embedding(count)
        beside = Prompts(self._ids[: shape[0] * shape[1]], self._slots[: shape[0]]) if shape else None
        self.step.enter(count, beside)
        for k in range(FRAME_TOKENS):
            logits = self.step.run(count, k, None if k else beside)
            draw(
                logits, k, self.state, rows, self.limits, embedding, self.codes, self.ended, self.layout.first_audio,
                early=self.step.early,
            )  # fmt: skip

    @torch.inference_mode()
    def prompt(self, count: int, size: int) -> None:
        """Keys and values of `count` prompts of `size` ids; what pads a shorter one is overwritten later."""
        shape, weights, step = self.shape, self.weights, self.step
        heads = shape.heads + 2 * shape.kv_heads

        def keep(i: int, qkv: Tensor, norms: Tensor | None) -> None:
            turn_and_keep(qkv, self.keys[i], self.values[i], slots, step.cos, step.sin, norms, step.early)

        def attend(qkv: Tensor) -> Tensor:
            q, k, v = qkv.view(count, size, heads, shape.head_dim).transpose(1, 2).split(
                (shape.heads, shape.kv_heads, shape.kv_heads), dim=1
            )  # fmt: skip
            return step.attention.prefill(q, k, v).flatten(0, 1)

        def attend_few(i: int, qkv: Tensor) -> Tensor:
            attend_prompts(qkv, self.keys[i], self.values[i], slots, step.cos, step.sin, attended, step.early)
            return attended

        slots, x = self._slots[:count], weights.embed[self._ids[: count * size]]
        # With weights of 8 bits the rows of all prompts have 8 bits (where they fit), whatever a prompt's company.
        if count * size <= FEW_TOKENS and self._few:
            assert self._tiles
            attended = x.new_empty(count * size, shape.heads * shape.head_dim)
            few_tokens(x, weights, shape, self._tiles, attend_few, step.early)
        else:
            many_tokens(x, weights, shape, keep, attend, step.early)

    def _frame_graph(self, count: int, shape: tuple[int, int] | None = None) -> torch.cuda.CUDAGraph:
        if (count, shape) not in self._frames:
            self.step.rows.fill_(-1)  # the rehearsal is for nobody, and writes prompts that the replay writes again
            self._frames[count, shape] = captured(lambda: self.frame(count, shape), self._pool)
        return self._frames[count, shape]

    def _prompt_graph(self, count: int, size: int) -> torch.cuda.CUDAGraph:
        if (count, size) not in self._prompts:
            # The rehearsal writes what the replay then writes again.
            self._prompts[count, size] = captured(lambda: self.prompt(count, size), self._pool)
        return self._prompts[count, size]


def supports(shape: LlamaShape) -> bool:
    """Whether the kernels' blocks fit this model's heads."""
    dim, group = shape.head_dim, shape.heads // shape.kv_heads
    return dim >= 16 and dim & (dim - 1) == 0 and group <= 16


def _fixed_plan(plans: tuple[Plan, ...], rows: int) -> Plan:
    for plan in plans:
        if plan.rows >= rows:
            return plan
    most = plans[-1].rows
    raise ConfigError("batch_invariant", f"streams can be independent of their batch up to {most} at once, not {rows}")


def _batches(slots: int) -> tuple[int, ...]:
    largest = next((size for size in BATCHES if size >= slots), slots)
    return (*(size for size in BATCHES if size < largest), largest)


def captured(action: Callable[[], None], pool: Any) -> torch.cuda.CUDAGraph:
    """`action` once for real (which compiles its kernels), then recorded."""
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        action()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        action()
    return graph
