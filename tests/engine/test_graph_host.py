"""What GraphLlama does on the host, without CUDA: which graphs it has, and whose prompts are read by which."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.model import llama
from engine.model.llama import TorchLlama
from engine.model.weights import load_weights
from tests.engine.hopper import take_hoppers_place
from tests.engine.kernels import DEVICE, prepare
from tests.engine.language import GREEDY, NEVER, Loaded, load
from tests.tiny import TinyLlama

if DEVICE.type == "cuda":
    pytest.skip("the graphs themselves are tested here", allow_module_level=True)
prepare()

from engine.model import graphs  # noqa: E402
from engine.model.graphs import GraphLlama  # noqa: E402


class Moment:
    """In a CUDA event's place."""

    def __init__(self, **options: bool) -> None: ...
    def record(self) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, other: Moment) -> float:
        return 1.0


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty
    monkeypatch.setattr(graphs, "captured", lambda action, pool: SimpleNamespace(replay=action))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", Moment)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch, "empty", lambda *sizes, pin_memory=False, **options: empty(*sizes, **options))


@pytest.fixture(scope="module")
def loaded(llama_folder: Callable[[TinyLlama], Path]) -> Loaded:
    return load(llama_folder(TinyLlama(layers=2, heads=2, kv_heads=1, seed=2)))


def built(kind: Callable[..., Any], loaded: Loaded, slots: int, context: int) -> Any:
    shape, layout = loaded.checkpoint.shape, loaded.checkpoint.layout
    return kind(shape, load_weights(loaded.folder, shape, layout, DEVICE, torch.float32), layout, slots, context)


class Idle(GraphLlama):
    """Notes what it is to run instead: (rows, prompts beside them), or the prompts of a pass as ("prompts", ...)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ran: list[tuple[Any, Any]] = []

    def frame(self, count: int, shape: tuple[int, int] | None = None) -> None:
        self.ran.append((count, shape))

    def prompt(self, count: int, size: int) -> None:
        self.ran.append(("prompts", (count, size)))


@pytest.fixture
def idle(loaded: Loaded) -> Callable[[int, int], Idle]:
    return lambda slots, context: built(Idle, loaded, slots, context)


# ---- at the start


@pytest.mark.parametrize("context", [300, 640, 2560])
def test_all_graphs_are_there_before_anybody_speaks(idle: Callable[[int, int], Idle], context: int) -> None:
    model = idle(40, context)
    model.warm_up()
    there = set(vars(model)["_prompts"]), set(vars(model)["_frames"])
    # A piece of 280 characters of up to four bytes each, a voice's name and what surrounds them.
    for length in {*range(1, min(context, 1200), 13), min(context, 1200) - 1}:
        for many in (1, 2, 3, 8):
            model.prefill_all([(slot, [5] * length) for slot in range(many)])
    for rows in (1, 2, 3, 7, 16, 17, 32, 33, 40):
        for many, length in ((0, 0), (1, 5), (1, 40), (2, 9), (2, 30), (3, 9)):
            model.join([(slot, [5] * length) for slot in range(min(many, rows))])
            model.launch(list(range(rows)), 1)
    assert (set(vars(model)["_prompts"]), set(vars(model)["_frames"])) == there


def test_a_prompt_longer_than_a_slot_is_refused(idle: Callable[[int, int], Idle]) -> None:
    with pytest.raises(IndexError, match="301 tokens do not fit a slot's 300"):
        idle(2, 300).prefill(0, [5] * 301)


# ---- who reads prompts


@pytest.mark.parametrize(
    ("rows", "lengths", "ran"),
    [
        (4, [9], [(4, (1, 32))]),
        (16, [9, 16], [(16, (2, 16))]),
        (16, [48], [(16, (1, 48))]),
        (32, [9, 9], [(32, (2, 16))]),
        (32, [40], [("prompts", (1, 64)), (32, None)]),
        (4, [9, 17], [("prompts", (2, 32)), (4, None)]),
        (4, [49], [("prompts", (1, 64)), (4, None)]),
        (4, [9, 9, 9], [("prompts", (4, 32)), (4, None)]),
        (64, [9], [("prompts", (1, 32)), (64, None)]),
    ],
    ids=str,
)
def test_prompts_that_fit_are_read_beside_the_rows(
    idle: Callable[[int, int], Idle], rows: int, lengths: list[int], ran: list[tuple[Any, Any]]
) -> None:
    model = idle(rows, 640)
    model.join([(slot, [5] * length) for slot, length in enumerate(lengths)])
    for _ in range(2):
        model.launch(list(range(rows)), 1)
    assert model.ran == [*ran, (rows, None)]


def test_who_has_no_row_yet_is_read_later_and_who_left_is_not_counted(idle: Callable[[int, int], Idle]) -> None:
    model = idle(4, 640)
    model.join([(0, [5] * 9), (2, [6] * 100), (3, [7] * 12)])
    model.launch([0, 1], 1)
    assert model.ran == [(2, (1, 32))]
    # In place of the second, who left without a frame, another one has the slot.
    model.join([(2, [8] * 14)])
    model.launch([0, 1, 2], 1)
    model.launch([0, 1, 2, 3], 1)
    assert model.ran[1:] == [(4, (1, 32)), (4, (1, 32))]
    assert vars(model)["_ids"][:13].tolist() == [7] * 12 + [0]
    assert vars(model)["_slots"][0] == 3


# ---- with kernels


def test_plans_for_others_attention_keep_their_splits(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    take_hoppers_place(monkeypatch)
    own, others = (
        built(partial(GraphLlama, attention=attention), loaded, 20, 32).step for attention in ("triton", "sdpa")
    )
    assert [own.plan(count).attention.grouped for count in (1, 16, 20)] == [True] * 3
    assert [others.plan(count).attention.splits for count in (1, 16, 20)] == [16, 4, 1]
    assert others.plan(1).tiles == own.plan(1).tiles


@pytest.mark.parametrize("hopper", [False, True], ids=["", "as on Hopper"])
@torch.inference_mode()
def test_streams_that_join_speak_as_in_plain_torch(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, hopper: bool
) -> None:
    """One alone, then two beside it."""
    ran = take_hoppers_place(monkeypatch) if hopper else None
    model, plain = (built(kind, loaded, 3, 128) for kind in (GraphLlama, TorchLlama))
    for module in (graphs, llama):
        monkeypatch.setattr(module, "FRAME_TOKENS", 1)  # a step a frame: the interpreter is slow
    prompts = [(loaded.ids(f"Number {slot}. ") * 9)[: length + 1] for slot, length in enumerate((45, 12, 15))]
    live: list[int] = []
    for slots in ([0], [1, 2]):
        for slot in slots:
            ids = prompts[slot]
            plain.prefill(slot, ids[:-1])
            for one in (model, plain):
                one.state.start(slot, ids[-1], len(ids) - 1, GREEDY)
        model.join([(slot, prompts[slot][:-1]) for slot in slots])
        live += slots
        mine, theirs = (one.decode_frame(live, 128, NEVER)[0][:, 0] for one in (model, plain))
        assert mine.tolist() == theirs.tolist()
    # Rows beside prompts.
    assert ran in (None, {"product", "product_add", "attend"})
    assert model.state.position.tolist() == plain.state.position.tolist()
    for slot, ids in enumerate(prompts):
        for mine, theirs in ((model.keys, plain.keys), (model.values, plain.values)):
            torch.testing.assert_close(mine[:, slot, :, : len(ids)], theirs[:, slot, :, : len(ids)], atol=1e-4, rtol=0)
