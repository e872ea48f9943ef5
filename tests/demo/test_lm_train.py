"""The language model trainer at toy size: packing, loss, optimizer, export and sampling against plain references."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from demo.train import lm, lm_export, lm_sample, lm_step, muon, packing  # noqa: E402
from demo.train import lm_model as model  # noqa: E402
from demo.train import tokenizer as layout  # noqa: E402

TOY = model.Shape(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp=48)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer():
    return layout.for_text(layout.build())


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    flat = torch.empty(TOY.size)
    model.initialise(flat, TOY, seed=0)
    # Rounded as exported, and with norms that matter.
    model.views(flat, TOY)["norms"].uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    return flat.bfloat16().float()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, weights: torch.Tensor) -> Path:
    path = tmp_path_factory.mktemp("lm")
    lm_export.save(path, weights, TOY, ["tara", "leo"])
    return path


@pytest.fixture(scope="module")
def utterances() -> list[packing.Utterance]:
    return packing.synthetic_utterances(12)


@pytest.fixture(scope="module")
def corpus(utterances, tokenizer) -> packing.Corpus:
    return packing.build_corpus(utterances, tokenizer, CPU)


def document(utterance: packing.Utterance, tokenizer) -> list[int]:
    [text] = layout.encode(tokenizer, [f"{utterance.voice}: {utterance.text}"])
    codes = utterance.codes.astype(int) + layout.AUDIO + layout.CODES * np.arange(7)
    return [*layout.prompt(text), *codes.flatten().tolist()]


def batches(corpus: packing.Corpus, room: packing.Room, augment: bool = False) -> list[model.Batch]:
    plan = packing.plan_epoch(corpus, room, np.random.default_rng(0), augment)
    return [packing.assemble(row, corpus, room, 0.0) for row in torch.from_numpy(plan)]


def test_packing_keeps_every_document_and_predicts_every_code(corpus, utterances, tokenizer) -> None:
    room = packing.Room(1500, 12, 256, corpus.longest)
    documents = [document(item, tokenizer) for item in utterances]
    seen = []
    for batch in batches(corpus, room):
        assert batch.bounds[-1] == room.tokens
        assert batch.bounds.diff().max() <= room.longest
        predicted = {}
        for slot in range(7):
            for row, target, on in zip(batch.rows[slot], batch.targets[slot], batch.mask[slot], strict=True):
                if on:
                    predicted[int(row)] = 130 if target == 4096 else int(target) + 138 + 4096 * slot
        for start, end in zip(batch.bounds[:-1].tolist(), batch.bounds[1:].tolist(), strict=True):
            tokens = batch.tokens[start:end].tolist()
            if not tokens or tokens[0] == layout.PAD:
                continue
            seen.append(tokens)
            speech = tokens.index(layout.START_OF_SPEECH)
            expected = dict(zip(range(start + speech, end), [*tokens[speech + 1 :], 130], strict=True))
            assert {row: predicted.pop(row) for row in expected} == expected
            assert batch.positions[start:end].tolist() == list(range(end - start))
        assert not predicted
    assert seen == documents


def test_text_variants(tokenizer) -> None:
    [ids] = layout.encode(tokenizer, ["leo: well, yes, it is?!"])
    spelled = ["".join(layout.ALPHABET[index] for index in variant) for variant in packing.variants(ids)]
    assert spelled == ["leo: well, yes, it is?!", "leo: well, yes, it is", "leo: well yes it is?!"]


def test_corruption_stays_in_its_slot(corpus) -> None:
    room = packing.measure_room(corpus, 2048)
    row = torch.from_numpy(packing.plan_epoch(corpus, room, np.random.default_rng(0)))[0]
    clean, noisy = (packing.assemble(row, corpus, room, share) for share in (0.0, 0.5))
    changed = clean.tokens != noisy.tokens
    assert 0.3 < changed.float().mean() < 0.6
    assert ((clean.tokens - 138)[changed] // 4096).equal((noisy.tokens - 138)[changed] // 4096)
    assert clean.targets.equal(noisy.targets)


def test_plausible() -> None:
    assert packing.plausible("Good morning to you.", 18)
    assert not packing.plausible("Good morning to you.", 2)
    assert not packing.plausible("Good morning to you.", 300)


def test_loss_is_the_plain_cross_entropy(corpus, weights) -> None:
    room = packing.Room(1500, 12, 256, corpus.longest)
    batch, rope = batches(corpus, room)[0], model.rope_table(TOY, CPU)
    tensors = model.leaves(weights, TOY)
    parts = model.make_parts(TOY, room.longest, 0.0, compiled=False)
    loss, statistics = model.forward(tensors, batch, rope, parts)
    logits = model.rms_norm(model.residual(tensors, batch, rope, parts), tensors[1], TOY.norm_eps) @ tensors[0].T
    lost, full = [], []
    for slot, unit in batch.mask.nonzero().tolist():
        row = logits[batch.rows[slot, unit]]
        legal = row[138 + 4096 * slot :][:4096]
        legal = torch.cat((legal, row[130:131])) if slot == 0 else legal
        lost.append(legal.logsumexp(0) - legal[batch.targets[slot, unit]])
        if unit % model.LEAK_STRIDE == 0:
            full.append(row.logsumexp(0) - legal.logsumexp(0))
    expected = torch.stack(lost).mean() + torch.stack(full).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert statistics[1, :8].sum() == len(lost)


def test_export_gives_transformers_the_same_model(folder, weights, corpus) -> None:
    transformers = pytest.importorskip("transformers")
    loaded = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    batch = batches(corpus, packing.Room(1500, 12, 256, corpus.longest))[0]
    tensors = model.leaves(weights, TOY)
    parts = model.make_parts(TOY, corpus.longest, 0.0, compiled=False)
    hidden = model.residual(tensors, batch, model.rope_table(TOY, CPU), parts)
    ours = model.rms_norm(hidden, tensors[1], TOY.norm_eps) @ tensors[0].T
    first, last = batch.bounds[1:3].tolist()
    with torch.no_grad():
        theirs = loaded(batch.tokens[None, first:last]).logits[0]
    torch.testing.assert_close(ours[first:last], theirs, rtol=1e-4, atol=1e-4)
    assert loaded.generation_config.eos_token_id == 130
    assert loaded.generation_config.temperature == 0.4
    assert json.loads((folder / "config.json").read_text())["voices"] == ["tara", "leo"]


def test_a_folder_loads_back(folder, weights) -> None:
    flat, shape = lm_export.load(folder)
    assert shape == TOY
    assert flat.equal(weights)


def test_sampling_with_a_cache_is_the_same_model(folder, weights, corpus, utterances, tokenizer) -> None:
    speaker = lm_sample.Speaker(folder, CPU)
    ids = torch.tensor([document(utterances[0], tokenizer)])
    speaker.start(1, ids.shape[1])
    place = torch.arange(ids.shape[1])[None]
    hidden = [speaker.step(ids[:, :40], place[:, :40], 40)]
    hidden += [speaker.step(ids[:, i : i + 1], place[:, i : i + 1], i + 1) for i in range(40, ids.shape[1])]
    batch = batches(corpus, packing.Room(1500, 12, 256, corpus.longest))[0]
    tensors = model.leaves(weights, TOY)
    parts = model.make_parts(TOY, corpus.longest, 0.0, compiled=False)
    whole = model.residual(tensors, batch, model.rope_table(TOY, CPU), parts)[: ids.shape[1]]
    torch.testing.assert_close(torch.cat(hidden, 1)[0], model.rms_norm(whole, tensors[1], TOY.norm_eps))


def test_a_batch_speaks_as_its_members_alone(folder, tokenizer) -> None:
    sampling = lm_sample.Sampling(temperature=0, max_frames=3)
    ids = [layout.prompt(text) for text in layout.encode(tokenizer, ["tara: hello there.", "leo: no"])]
    speaker = lm_sample.Speaker(folder, CPU)
    together = lm_sample.speak(speaker, ids, sampling)
    alone = [lm_sample.speak(speaker, [row], sampling)[0] for row in ids]
    assert all(np.array_equal(*pair) for pair in zip(together, alone, strict=True))


def test_speech_ends_at_the_end_token_of_slot_zero(folder, tokenizer, monkeypatch) -> None:
    drawn = []

    def draw(logits: torch.Tensor, *_) -> torch.Tensor:
        drawn.append(logits.shape[1])
        return torch.tensor([4096 if len(drawn) == 15 else 4095, 4095])

    monkeypatch.setattr(lm_sample, "draw", draw)
    ids = [layout.prompt(text) for text in layout.encode(tokenizer, ["tara: hello there.", "leo: no"])]
    spoken = lm_sample.speak(lm_sample.Speaker(folder, CPU), ids, lm_sample.Sampling(max_frames=4))
    assert [len(codes) for codes in spoken] == [2, 4]
    assert drawn == [4097, *[4096] * 6] * 4


def test_nucleus_keeps_the_likely() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(500, 1)
    generator = torch.Generator().manual_seed(0)
    drawn = lm_sample.draw(logits, lm_sample.Sampling(1.0, 0.7), generator)
    assert set(drawn.tolist()) == {0, 1}
    assert lm_sample.draw(logits, lm_sample.Sampling(0.0), generator).eq(0).all()


def test_codes_file_round_trip(tmp_path: Path) -> None:
    spoken = {"tara-000": np.arange(14, dtype=np.uint16).reshape(2, 7), "leo-000": np.zeros((0, 7), np.uint16)}
    lm_sample.write_codes(tmp_path / "codes.npz", spoken, lm_sample.Sampling())
    with np.load(tmp_path / "codes.npz") as arrays:
        assert arrays["name"].tolist() == ["tara-000", "leo-000"]
        assert arrays["frames"].tolist() == [2, 0]


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    stack = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(muon.orthogonalise(stack))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_every_matrix_is_updated_on_its_own() -> None:
    stacks = muon.matrices(torch.randn(TOY.size, generator=torch.Generator().manual_seed(0)), TOY)
    updates = muon.orthogonal_updates(stacks, torch.float32)
    for stack, update in zip(stacks, updates, strict=True):
        torch.testing.assert_close(update, muon.orthogonalise(stack), rtol=1e-4, atol=1e-5)
    assert sum(stack.numel() for stack in stacks) == TOY.size - TOY.adam_size


def test_rate_rises_and_falls_to_zero() -> None:
    assert lm.rate_at(0, 0.0, 1.0, 10) == pytest.approx(0.1)
    assert lm.rate_at(50, 0.5, 1.0, 10) == pytest.approx(0.5)
    assert lm.rate_at(99, 1.0, 1.0, 10) == pytest.approx(0.0)


def test_a_toy_run_learns_and_exports(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lm, "HELD_OUT", 2)
    arguments = "--data synthetic --utterances 40 --device cpu --gpus 1 --steps 14 --tokens 640 --rate 0.02 --warmup 2"
    sizes = "--hidden 32 --layers 1 --heads 2 --kv-heads 1 --head-dim 16 --mlp 48 --dropout 0 --corrupt 0"
    lm.main([*arguments.split(), *sizes.split(), "--work", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "lm.jsonl").read_text().splitlines()]
    assert rows[-1]["kind"] == "held out"
    assert rows[-1]["loss"] < 7.0  # a guess among 4,096 is 8.32
    flat, shape = lm_export.load(tmp_path / "lm")
    assert shape.layers == 1
    assert torch.isfinite(flat).all()


def test_evaluation_counts_every_code_once(utterances, tokenizer, weights) -> None:
    corpus = packing.build_corpus(utterances[:4], tokenizer, CPU)
    one, other = (lm_step.evaluate(weights, TOY, corpus, tokens) for tokens in (600, 1600))
    assert one[:8] == pytest.approx(other[:8], abs=1e-4)
