"""Assembles the released checkpoint from WORK: lm/, codec/ (decoder only, fp16) and the model card, and loads it back.

Refuses a checkpoint of 45 MB or more. Figures for the card come from a JSON file; what is missing there is said to be
unmeasured.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import defaultdict
from pathlib import Path
from string import Template

import numpy as np
import torch

from demo.train import tokenizer as layout
from demo.train.lm_export import load, save
from demo.train.lm_sample import decode, load_codec
from demo.train.packing import FRAME_SECONDS

LIMIT = 45_000_000


def copy_lm(source: Path, target: Path) -> None:
    """The language model's folder with today's configuration files and tokenizer."""
    flat, shape = load(source)
    voices = json.loads((source / "config.json").read_text(encoding="utf-8")).get("voices", ["tara", "leo"])
    shutil.rmtree(target, ignore_errors=True)
    save(target, flat, shape, voices)


def copy_codec(source: Path, target: Path, encoder: bool) -> None:
    """The codec in fp16, without its encoder unless asked for: speaking needs only codebooks and decoder."""
    state = torch.load(source / "pytorch_model.bin", map_location="cpu", weights_only=True)
    kept = {name: tensor for name, tensor in state.items() if encoder or not name.startswith("encoder.")}
    target.mkdir(parents=True, exist_ok=True)
    torch.save({name: tensor.half().clone() for name, tensor in kept.items()}, target / "pytorch_model.bin")
    shutil.copyfile(source / "config.json", target / "config.json")


def check(checkpoint: Path) -> None:
    """Load everything as its users do; raises if anything is off."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "lm")
    model = LlamaForCausalLM.from_pretrained(checkpoint / "lm", dtype=torch.float32).eval()
    text = tokenizer("tara: Hello.", add_special_tokens=False).input_ids
    with torch.inference_mode():
        logits = model(torch.tensor([layout.prompt(text)])).logits[0, -1]
    best = int(logits.argmax())
    if not layout.AUDIO <= best < layout.AUDIO + layout.CODES:
        raise ValueError(f"the model begins speech with token {best}, which is no code of slot 0")
    device = torch.device("cpu")
    samples = decode(load_codec(checkpoint / "codec", device), np.full((4, 7), 7, np.uint16), device)
    if len(samples) != 4 * 2048:
        raise ValueError(f"the codec makes {len(samples)} samples of 4 frames")


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measured(work: Path, checkpoint: Path) -> dict[str, str]:
    """The card's figures that follow from the files themselves."""
    config = json.loads((checkpoint / "lm" / "config.json").read_text(encoding="utf-8"))
    weights = (checkpoint / "lm" / "model.safetensors").stat().st_size // 2
    figures = {
        "lm_parameters": f"{weights / 1e6:.1f}",
        "voices": ", ".join(config["voices"]),
        "layers": str(config["num_hidden_layers"]),
        "hidden": str(config["hidden_size"]),
        "lm_size": f"{size_of(checkpoint / 'lm') / 1e6:.1f}",
        "codec_size": f"{size_of(checkpoint / 'codec') / 1e6:.1f}",
    }
    frames = 0
    for path in (work / "codes").glob("*.npz"):
        with np.load(path) as arrays:
            frames += int(arrays["frames"].sum())
    if frames:
        figures["hours"] = f"{frames * FRAME_SECONDS / 3600:.0f}"
    if (work / "lm.jsonl").exists():
        rows = [json.loads(line) for line in (work / "lm.jsonl").read_text(encoding="utf-8").splitlines()]
        last = [row for row in rows if row["kind"] == "held out"][-1]
        figures |= {"steps": f"{last['step']:,}", "held_out_loss": f"{last['loss']:.2f}"}
    return figures


def write_card(checkpoint: Path, figures: dict[str, str]) -> list[str]:
    """README.md from the template; returns the names of the figures that nobody measured."""
    card = Template(Path(__file__).with_name("model_card.md").read_text(encoding="utf-8"))
    known = defaultdict(lambda: "not measured", figures)
    (checkpoint / "README.md").write_text(card.substitute(known), encoding="utf-8")
    return sorted(set(card.get_identifiers()) - set(figures))


def main() -> None:
    """Assemble, check and describe the checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lm", type=Path, help="model folder, if not WORK/lm")
    parser.add_argument("--codec", type=Path, help="codec folder, if not WORK/codec")
    parser.add_argument("--out", type=Path, default=Path("demo/checkpoint"))
    parser.add_argument("--figures", type=Path, help="JSON object of the card's measured figures")
    parser.add_argument("--encoder", action="store_true", help="ship the codec's encoder too")
    options = parser.parse_args()
    copy_lm(options.lm or options.work / "lm", options.out / "lm")
    copy_codec(options.codec or options.work / "codec", options.out / "codec", options.encoder)
    given = json.loads(options.figures.read_text(encoding="utf-8")) if options.figures else {}
    missing = write_card(options.out, measured(options.work, options.out) | {k: str(v) for k, v in given.items()})
    check(options.out)
    size = size_of(options.out)
    if size >= LIMIT:
        raise SystemExit(f"{options.out} holds {size:,} bytes, {LIMIT:,} or more")
    print(f"{options.out}: {size:,} bytes; not measured: {', '.join(missing) or 'nothing'}", flush=True)


if __name__ == "__main__":
    main()
