"""Speaks held-out sentences with a trained language model, all of them in one batch, and decodes them to wavs.

Plain torch over the exported weights, slot-constrained as the server samples. The codes of each sampling are kept in
one small file, codes-t<temperature>-p<top_p>.npz; `--decode` makes the wavs out of it, here or on another machine.
"""

from __future__ import annotations

import argparse
import json
import time
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from demo.train.lm_export import load
from demo.train.lm_model import Shape, layers, leaves, rms_norm, rope_table
from demo.train.tokenizer import AUDIO, CODES, END_OF_SPEECH, SLOTS, encode, for_text, prompt

SAMPLE_RATE = 24000


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn: temperature 0 is greedy."""

    temperature: float = 0.4
    top_p: float = 0.9
    max_frames: int = 257
    seed: int = 0


class Speaker:
    """The model with a static key-value cache for one batch of prompts, every sequence at its own position."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        flat, self.shape = load(folder)
        self.tensors = leaves(flat.to(device), self.shape)
        self.device = device
        self.rope = rope_table(self.shape, device)

    def start(self, sequences: int, context: int) -> None:
        """An empty cache for `sequences` of up to `context` tokens."""
        size = (self.shape.layers, 2, sequences, context, self.shape.kv_heads, self.shape.head_dim)
        self.cache = torch.zeros(size, device=self.device)

    def step(self, tokens: Tensor, positions: Tensor, limit: int) -> Tensor:
        """Hidden states (sequences, n, hidden) of `tokens` at `positions`, all of them below `limit`."""
        x = self.tensors[0][tokens]
        rope = self.rope[positions]
        seen = torch.arange(limit, device=self.device) <= positions[..., None]
        for index, layer in enumerate(layers(self.tensors)):
            x = _layer(x, rope, positions, seen[:, None], self.cache[index][:, :, :limit], layer, self.shape)
        return rms_norm(x, self.tensors[1], self.shape.norm_eps)

    def logits(self, hidden: Tensor, slot: int) -> Tensor:
        """(sequences, 4096) logits of a slot's codes; in slot 0 a last column for end of speech."""
        first = AUDIO + CODES * slot
        codes = hidden @ self.tensors[0][first : first + CODES].T
        if slot:
            return codes
        return torch.cat((codes, (hidden @ self.tensors[0][END_OF_SPEECH])[:, None]), dim=1)


def _turn(x: Tensor, rope: Tensor) -> Tensor:
    cos, sin = rope[..., None, 0, :], rope[..., None, 1, :]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _layer(
    x: Tensor, rope: Tensor, positions: Tensor, seen: Tensor, cache: Tensor, layer: list[Tensor], shape: Shape
) -> Tensor:
    norm1, qkv, out, norm2, gate_up, down = layer
    heads, kv = shape.heads, shape.kv_heads
    mixed = functional.linear(rms_norm(x, norm1, shape.norm_eps), qkv).unflatten(-1, (heads + 2 * kv, -1))
    q, k, v = mixed.split((heads, kv, kv), dim=2)
    sequence = torch.arange(len(x), device=x.device)[:, None]
    cache[0][sequence, positions] = _turn(k, rope)
    cache[1][sequence, positions] = v
    keys, values = (half.transpose(1, 2).repeat_interleave(heads // kv, dim=1) for half in cache)
    mixed = functional.scaled_dot_product_attention(_turn(q, rope).transpose(1, 2), keys, values, attn_mask=seen)
    x = x + functional.linear(mixed.transpose(1, 2).flatten(2), out)
    gate, up = functional.linear(rms_norm(x, norm2, shape.norm_eps), gate_up).chunk(2, dim=-1)
    return x + functional.linear(functional.silu(gate) * up, down)


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """One code a row, by temperature and nucleus."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    ranked, order = (logits / sampling.temperature).softmax(-1).sort(-1, descending=True)
    ranked[ranked.cumsum(-1) - ranked > sampling.top_p] = 0
    choice = torch.multinomial(ranked, 1, generator=generator)
    return order.gather(-1, choice)[:, 0]


@torch.inference_mode()
def speak(speaker: Speaker, ids: list[list[int]], sampling: Sampling) -> list[np.ndarray]:
    """The codes (frames, 7) of every prompt, as uint16."""
    lengths = torch.tensor([len(row) for row in ids], device=speaker.device)
    longest = int(lengths.max())
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=speaker.device)
    frames = min(sampling.max_frames, (speaker.shape.context - longest) // SLOTS)
    speaker.start(len(ids), longest + SLOTS * frames)
    places = torch.arange(longest, device=speaker.device).expand(len(ids), -1)
    hidden = speaker.step(padded, places, longest)[torch.arange(len(ids), device=speaker.device), lengths - 1]
    generator = torch.Generator(speaker.device).manual_seed(sampling.seed)
    count = torch.full_like(lengths, frames)
    spoken = torch.zeros(len(ids), frames, SLOTS, dtype=torch.long, device=speaker.device)
    for position in range(SLOTS * frames):
        frame, slot = divmod(position, SLOTS)
        code = draw(speaker.logits(hidden, slot), sampling, generator)
        if slot == 0:
            count = torch.where((code == CODES) & (count == frames), frame, count)
            if int(count.max()) <= frame:
                break
            code = code.clamp(max=CODES - 1)
        spoken[:, frame, slot] = code
        tokens = (AUDIO + CODES * slot + code)[:, None]
        hidden = speaker.step(tokens, (lengths + position)[:, None], longest + position + 1)[:, 0]
    spoken = spoken.cpu().numpy().astype(np.uint16)
    return [codes[:length] for codes, length in zip(spoken, count.tolist(), strict=True)]


def read_sentences(path: Path) -> list[str]:
    """The sentences of a file of `set<TAB>sentence` lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split("\t", 1)[-1] for line in lines if line.strip() and not line.startswith("#")]


def sample(
    folder: Path, sentences: list[str], voices: list[str], sampling: Sampling, device: torch.device
) -> dict[str, np.ndarray]:
    """Every sentence in every voice, as {"<voice>-<index>": codes}. Prints the pace, and how many never ended."""
    tokenizer = for_text(Tokenizer.from_file(str(folder / "tokenizer.json")))
    names = [f"{voice}-{index:03d}" for voice in voices for index in range(len(sentences))]
    texts = encode(tokenizer, [f"{voice}: {sentence}" for voice in voices for sentence in sentences])
    ids = [prompt(text) for text in texts]
    began = time.monotonic()
    spoken = speak(Speaker(folder, device), ids, sampling)
    took, seconds = time.monotonic() - began, sum(map(len, spoken)) * 2048 / SAMPLE_RATE
    endless = sum(len(codes) >= sampling.max_frames for codes in spoken)
    print(f"{len(ids)} utterances, {seconds:.0f} s of speech in {took:.1f} s, {endless} never ended", flush=True)
    return dict(zip(names, spoken, strict=True))


def write_codes(path: Path, spoken: dict[str, np.ndarray], sampling: Sampling) -> None:
    """Write codes.npz: `codes` (frames, 7), `name`, `frames`, and the sampling as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        codes=np.concatenate(list(spoken.values())),
        name=np.array(list(spoken)),
        frames=np.array([len(codes) for codes in spoken.values()], np.int32),
        sampling=np.array(json.dumps(vars(sampling))),
    )


def load_codec(folder: Path, device: torch.device) -> torch.nn.Module:
    """The SNAC codec of a folder; the encoder's weights may be missing, as in the shipped codec."""
    from snac import SNAC

    codec = SNAC(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    state = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    wrong = codec.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    absent = [name for name in wrong.missing_keys if not name.startswith("encoder.")]
    if absent or wrong.unexpected_keys:
        raise ValueError(f"{folder} does not hold this codec: missing {absent}, unexpected {wrong.unexpected_keys}")
    return codec.to(device).eval()


@torch.inference_mode()
def decode(codec: torch.nn.Module, codes: np.ndarray, device: torch.device) -> np.ndarray:
    """(frames, 7) codes to int16 samples."""
    frames = torch.from_numpy(codes.astype(np.int64)).to(device)
    books = [frames[:, slots].reshape(1, -1) for slots in ([0], [1, 4], [2, 3, 5, 6])]
    samples = codec.decode(books)[0, 0].clamp(-1, 1).cpu().numpy()
    return np.round(samples * 32767).astype("<i2")


def decode_file(path: Path, codec_folder: Path, out: Path, device: torch.device, seed: int = 0) -> None:
    """Write <name>.wav for every utterance of a codes.npz."""
    codec = load_codec(codec_folder, device)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)  # the codec's decoder adds noise
    with np.load(path) as arrays:
        codes, names, frames = arrays["codes"], arrays["name"].tolist(), arrays["frames"]
    for name, part in zip(names, np.split(codes, np.cumsum(frames)[:-1]), strict=True):
        samples = decode(codec, part, device) if len(part) else np.zeros(0, "<i2")
        with wave.open(str(out / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(samples.tobytes())


def sample_all(options: argparse.Namespace, device: torch.device) -> None:
    """One codes file for each temperature, and its wavs where a codec is given."""
    sentences = read_sentences(options.sentences)[: options.limit]
    for temperature in options.temperature:
        sampling = Sampling(temperature, options.top_p, options.max_frames, options.seed)
        name = f"codes-t{temperature}-p{options.top_p}"
        print(f"{name}: ", end="", flush=True)
        spoken = sample(options.lm or options.work / "lm", sentences, options.voices, sampling, device)
        write_codes(options.out / f"{name}.npz", spoken, sampling)
        if options.codec:
            decode_file(options.out / f"{name}.npz", options.codec, options.out / name, device)


def main() -> None:
    """Sample held-out sentences from WORK/lm, or decode an earlier sample's codes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--lm", type=Path, help="model folder, if not WORK/lm")
    parser.add_argument("--sentences", type=Path, default=Path(__file__).with_name("heldout.txt"))
    parser.add_argument("--limit", type=int, help="only the first so many sentences")
    parser.add_argument("--voices", nargs="+", default=["tara", "leo"])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.4])
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--max-frames", type=int, default=257)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codec", type=Path, help="codec folder: write wavs too")
    parser.add_argument("--decode", type=Path, help="codes file to decode instead of sampling")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.decode:
        decode_file(options.decode, options.codec or options.work / "codec", options.out, torch.device(options.device))
    else:
        sample_all(options, torch.device(options.device))


if __name__ == "__main__":
    main()
