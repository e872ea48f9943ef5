"""What 8-bit weights and 8-bit keys and values change in what a model says, token by token.

    python -m benchmarks.quality                                   # the demo voice on the CPU
    python -m benchmarks.quality --model orpheus-3b --device cuda  # a known shape with random weights, in the kernels

The model as it is stored speaks texts with seeds; every other kind is given the same tokens, and asked at each what
would have come next: the Kullback-Leibler divergence of its distribution over the slot's legal codes from the stored
model's, in nats, before temperature; how often the likeliest code is the same; and how often the seeded draw is, with
the model's usual sampling. On the CPU the arithmetic is float32; on CUDA the engine's own kernels compute, and `again`
is the stored model in plain torch: what rounding alone does. A table for people; the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import commit, machine, rounded
from engine.config import EngineConfig
from engine.model.checkpoint import Checkpoint
from engine.model.fp8 import Matrix, plain, rows_of_8_bits
from engine.model.llama import TorchLlama
from engine.model.loading import device_name, device_of, open_model
from engine.model.sampler import sample
from engine.model.slots import Sampling
from engine.model.weights import END_ROW, LlamaWeights, load_weights, random_weights, stored_dtype
from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS, voice_prompt

TEXTS = (
    "The weather is lovely today, is it not?",
    "Please call me back before five o'clock, the number is on your desk.",
    "She sold the old piano and bought a boat instead.",
    "No, I have never been there, but I would love to go.",
    "Turn left at the bridge and follow the river for two miles.",
    "Our next train leaves from platform nine in twelve minutes.",
    "It was quiet in the house, and nobody wanted to be the first to speak.",
    "Thank you for waiting. How can I help you?",
)
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Kind:
    """One way to keep the same model."""

    name: str
    weights: bool = False
    rows: bool = False
    cache: bool = False


KINDS = (
    Kind("fp8 weights", weights=True),
    Kind("fp8 weights and rows", weights=True, rows=True),
    Kind("fp8 keys and values", cache=True),
    Kind("both", weights=True, cache=True),
)


class RoundedRows(TorchLlama):
    """Also rounds what is multiplied with the weights: as the library's products of many rows do it on CUDA."""

    def _product(self, x: Tensor, matrix: Matrix) -> Tensor:
        values, scale = rows_of_8_bits(x)
        return F.linear((values.float() * scale).to(x.dtype), plain(matrix, x.dtype))


class Forced:
    """A model that is told each token, all its streams at once, and answers with what it would say next."""

    def __init__(self, model: Any, streams: int) -> None:
        self.model = model
        self.slots = torch.arange(streams, device=model.keys.device)

    def logits(self, tokens: Tensor, positions: Tensor, k: int, length: int) -> Tensor:
        """Float32 [streams, END_ROW + 1] for slot k, after `tokens` at `positions`."""
        if isinstance(self.model, TorchLlama):
            hidden = self.model.step(tokens, self.slots, positions, length)
            return F.linear(hidden, self.model.weights.head[k]).float()[:, : END_ROW + 1]
        return self._in_kernels(tokens, positions, k)

    @torch.inference_mode()
    def _in_kernels(self, tokens: Tensor, positions: Tensor, k: int) -> Tensor:
        model, count = self.model, self.slots.numel()
        model.state.token[self.slots], model.state.position[self.slots] = tokens, positions
        model.step.rows[:count] = self.slots.int()
        model.step.enter(count)
        return model.step.run(count, k)[:, : END_ROW + 1].clone()


class Tally:
    """What a kind said beside what the stored model said, for every token that was counted."""

    def __init__(self) -> None:
        self.divergence: list[Tensor] = []
        self.slots: list[Tensor] = []
        self.top: list[Tensor] = []
        self.draws: list[Tensor] = []

    def add(self, expected: Tensor, mine: Tensor, same_draw: Tensor, k: int, live: Tensor) -> None:
        """Rows of logits; the tokens of rows that are not `live` do not count."""
        width = END_ROW + 1 if k == 0 else CODEBOOK_SIZE  # speech may only end at a frame's start
        p, q = (logits[:, :width].double().log_softmax(-1) for logits in (expected, mine))
        self.divergence.append((p.exp() * (p - q)).sum(-1)[live])
        self.top.append((p.argmax(-1) == q.argmax(-1))[live])
        self.draws.append(same_draw[live])
        self.slots.append(torch.full((int(live.sum()),), k))

    def summary(self) -> dict[str, Any]:
        divergence, slots = torch.cat(self.divergence).cpu(), torch.cat(self.slots)
        return {
            "tokens": divergence.numel(),
            "kl_mean": rounded(float(divergence.mean()), 5),
            "kl_p99": rounded(float(divergence.quantile(0.99)), 4),
            "kl_by_slot": [rounded(float(divergence[slots == k].mean()), 5) for k in range(FRAME_TOKENS)],
            "same_top": rounded(float(torch.cat(self.top).double().mean()), 4),
            "same_draw": rounded(float(torch.cat(self.draws).double().mean()), 4),
        }


def weights_of(checkpoint: Checkpoint, device: torch.device, fp8: bool) -> LlamaWeights:
    """Arithmetic in float32 on the CPU, in bfloat16 on CUDA; quantised from what is stored."""
    shape, layout = checkpoint.shape, checkpoint.layout
    if checkpoint.folder is None:
        weights = random_weights(shape, layout, device, torch.bfloat16, seed=0, fp8=fp8)
    else:
        kept = torch.bfloat16 if device.type == "cuda" else stored_dtype(checkpoint.folder)
        weights = load_weights(checkpoint.folder, shape, layout, device, kept, fp8=fp8)
    return weights if device.type == "cuda" else weights.to(torch.float32)


def build(
    checkpoint: Checkpoint, weights: LlamaWeights, kind: Kind, streams: int, context: int, torch_only: bool
) -> Any:
    """The model of this kind, in the engine's kernels where they run."""
    arguments = (checkpoint.shape, weights, checkpoint.layout, streams, context)
    kept = FP8 if kind.cache else None
    if weights.embed.device.type == "cpu" or torch_only:
        return (RoundedRows if kind.rows else TorchLlama)(*arguments, kv_dtype=kept)
    from engine.model.graphs import GraphLlama  # Triton is not on every machine

    return GraphLlama(*arguments, kv_dtype=kept)


def prompts(checkpoint: Checkpoint, seeds: int) -> list[tuple[list[int], int]]:
    """The ids of each stream's prompt, and its seed."""
    voices = checkpoint.voices[:2]
    return [
        (checkpoint.layout.prompt(checkpoint.encode(voice_prompt(voice, text))), seed)
        for seed in range(seeds)
        for voice in voices
        for text in TEXTS
    ]


def compare(
    checkpoint: Checkpoint, stored: Any, kinds: dict[str, Any], streams: list[tuple[list[int], int]], frames: int
) -> dict[str, Tally]:
    """Speaks with `stored` and asks every other model at each of its tokens."""
    defaults, state = checkpoint.defaults, stored.state
    device = stored.keys.device
    for slot, (ids, seed) in enumerate(streams):
        for model in (stored, *kinds.values()):
            model.prefill(slot, ids[:-1])
        sampling = Sampling(
            defaults.temperature, defaults.top_p, defaults.top_k, defaults.repetition_penalty,
            defaults.repetition_window, seed,
        )  # fmt: skip
        state.start(slot, ids[-1], len(ids) - 1, sampling)
    forced = {name: Forced(model, len(streams)) for name, model in {"": stored, **kinds}.items()}
    tallies = {name: Tally() for name in kinds}
    rows, live = forced[""].slots, torch.ones(len(streams), dtype=torch.bool, device=device)
    tokens = torch.tensor([ids[-1] for ids, _ in streams], device=device)
    positions = torch.tensor([len(ids) - 1 for ids, _ in streams], device=device)
    # Only `stored`'s state knows what was said; the kernels write no more than tokens and positions into theirs.
    for frame in range(frames):
        for k in range(FRAME_TOKENS):
            length = int(positions.max()) + 1
            said = {name: model.logits(tokens, positions, k, length) for name, model in forced.items()}
            drawn = {name: sample(logits, k, state, rows, 1) for name, logits in said.items()}
            for name, tally in tallies.items():
                tally.add(said[""], said[name], drawn[name] == drawn[""], k, live)
            if k == 0:
                live = live & (drawn[""] != END_ROW)
            code = drawn[""].clamp(max=CODEBOOK_SIZE - 1)
            state.last_seen[rows, k, code] = frame * FRAME_TOKENS + k
            tokens, positions = checkpoint.layout.first_audio + k * CODEBOOK_SIZE + code, positions + 1
        state.frame[rows] = frame + 1
    return tallies


def sizes(model: Any, prompt: int) -> dict[str, dict[str, float]]:
    """How large keys and values are, of what a 8-bit number can hold (448; steps no longer shrink below 2^-6)."""
    found = {}
    for name, cache in (("keys", model.keys), ("values", model.values)):
        numbers = cache[:, :, :, :prompt].float().abs().flatten()
        sample_of = numbers[:: max(1, numbers.numel() // 2_000_000)]
        found[name] = {
            "median": rounded(float(sample_of.median()), 4),
            "largest": rounded(float(numbers.max()), 2),
            "below_2^-6": rounded(float((sample_of < 2**-6).double().mean()), 4),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a known shape, with random weights; none: the demo voice")
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=2, help="of each text and voice; 16 streams a seed")
    parser.add_argument("--frames", type=int, default=40)
    args = parser.parse_args()
    device = device_of(args.device)
    checkpoint = open_model(EngineConfig(model=args.model, load_format="dummy" if args.model else "auto"))
    if args.layers:
        checkpoint = replace(checkpoint, shape=replace(checkpoint.shape, layers=args.layers))
    streams = prompts(checkpoint, args.seeds)
    context = max(len(ids) for ids, _ in streams) + (args.frames + 1) * FRAME_TOKENS
    weights = {fp8: weights_of(checkpoint, device, fp8) for fp8 in (False, True)}
    kinds = [Kind("again")] if device.type == "cuda" else []
    # On CUDA rows are rounded where a batch is large (more than 64 streams), and not by choice.
    kinds += [kind for kind in KINDS if device.type == "cpu" or not kind.rows]
    models = {}
    for kind in kinds:
        again = kind.name == "again"
        # Its own: the kernels' model folds the norms of those that it is given.
        taken = weights_of(checkpoint, device, False) if again else weights[kind.weights]
        models[kind.name] = build(checkpoint, taken, kind, len(streams), context, again)
    stored = build(checkpoint, weights[False], Kind("stored"), len(streams), context, False)
    tallies = compare(checkpoint, stored, models, streams, args.frames)
    rows = [{"kind": name, **tally.summary()} for name, tally in tallies.items()]
    cached = sizes(stored, min(len(ids) for ids, _ in streams))
    print(f"{'kind':<22}{'tokens':>8}{'KL mean':>10}{'KL p99':>9}{'same top':>10}{'same draw':>11}  KL by slot")
    for row in rows:
        by_slot = " ".join(f"{value:.4f}" for value in row["kl_by_slot"])
        print(
            f"{row['kind']:<22}{row['tokens']:>8}{row['kl_mean']:>10.5f}{row['kl_p99']:>9.4f}{row['same_top']:>10.4f}"
            f"{row['same_draw']:>11.4f}  {by_slot}"
        )
    print(f"keys: {cached['keys']}, values: {cached['values']}")
    where = {"device": device_name(device), "machine": machine(), "model": checkpoint.name}
    what = {"layers": checkpoint.shape.layers, "streams": len(streams), "frames": args.frames, "cached": cached}
    print(json.dumps({"commit": commit(), **where, **what, "rows": rows}))


if __name__ == "__main__":
    main()
