"""The codec's trainer and encoder at toy size on the CPU: they learn, save what snac loads, agree with snac's code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
snac = pytest.importorskip("snac")

from demo.train import audio_pool, codec, codec_loss, discriminators, encode  # noqa: E402
from demo.train.codec_step import CodecStep, Plan  # noqa: E402
from demo.train.flat_params import WEIGHT_DECAY, FlatParams  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
FRAME = 2048


def toy_model(seed: int = 0) -> snac.SNAC:
    torch.manual_seed(seed)
    return snac.SNAC(**codec.TOY_SHAPE)


def write_clips(folder: Path, name: str, lengths: list[int], first_id: int = 0) -> np.ndarray:
    """One worker's files with clips of these lengths; returns the samples."""
    folder.mkdir(parents=True, exist_ok=True)
    sound = audio_pool.synthetic_speech(sum(lengths) / audio_pool.RATE + 0.01, 150.0, seed=first_id)[: sum(lengths)]
    with (folder / f"{name}.pcm").open("ab") as file:
        file.write(sound.tobytes())
    starts = np.cumsum([0, *lengths[:-1]])
    with (folder / f"{name}.jsonl").open("a") as file:
        for at, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            file.write(json.dumps({"id": first_id + at, "start": int(start), "length": length}) + "\n")
    return sound


def save_toy(folder: Path) -> snac.SNAC:
    model = toy_model()
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(codec.TOY_SHAPE))
    return model


def test_training_saves_a_codec_that_snac_loads(tmp_path: Path) -> None:
    arguments = "--device cpu --data synthetic --toy --batch 2 --crop 2048 --seconds 60 --steps 10 --gan-from 0"
    codec.main(["--work", str(tmp_path), *arguments.split()])
    model = snac.SNAC.from_pretrained(str(tmp_path / "codec"))
    heard, codes = model(torch.randn(1, 1, 5000))
    assert heard.shape == (1, 1, 5000)
    assert [code.shape[1] for code in codes] == [3, 6, 12]
    row = json.loads((tmp_path / "codec" / "log.jsonl").read_text().splitlines()[-1])
    assert row["step"] == 10
    assert np.isfinite([row["mel"], row["critics"], row["features"]]).all()


def test_frozen_encoder_keeps_its_codes(tmp_path: Path) -> None:
    before = save_toy(tmp_path / "first")
    arguments = "--device cpu --data synthetic --toy --batch 2 --crop 2048 --seconds 60 --steps 10 --freeze-encoder"
    codec.main(["--work", str(tmp_path), "--init", str(tmp_path / "first"), *arguments.split()])
    after = snac.SNAC.from_pretrained(str(tmp_path / "codec"))
    sound = torch.randn(1, 1, 4 * FRAME)
    assert all(torch.equal(a, b) for a, b in zip(before.encode(sound), after.encode(sound), strict=True))
    assert not torch.equal(before.decoder.model[-2].bias, after.decoder.model[-2].bias)


def test_gradient_step_lowers_the_mel_distance() -> None:
    step = CodecStep(toy_model(), Plan(batch=2, crop=4096, small=True), torch.device("cpu"), lambda tensor: None)
    sound = torch.from_numpy(audio_pool.synthetic_speech(1.0, 180.0, seed=1)[: 2 * 4096].astype(np.float32) / 32768)
    step.audio.copy_(sound.view(2, 1, 4096))
    step.set_rates(2e-3, 1.0, 0.5, 0.9)
    seen = []
    for _ in range(12):
        step.stats.zero_()
        step.gradients[0]()
        step.update[0]()
        seen.append(float(step.stats[0]))
    assert seen[-1] < 0.9 * seen[0]


def test_quantise_agrees_with_snac() -> None:
    model = toy_model()
    z = torch.randn(2, model.latent_dim, 16)
    theirs, codes = model.quantizer(z)
    ours = codec_loss.quantise(model.quantizer, z)
    assert torch.allclose(ours.z, theirs, atol=1e-5)
    assert all(torch.equal(a.flatten(), b.flatten()) for a, b in zip(ours.codes, codes, strict=True))


def test_mel_bands_have_equal_area_and_no_distance_to_themselves() -> None:
    triangles, centres = codec_loss.mel_bands(2048, 80)
    assert torch.allclose(triangles.sum(0) * (24000 / 2048), torch.ones(80), atol=0.15)
    assert bool((centres.diff() > 0).all())
    x, loss = torch.randn(2, 4096), codec_loss.MelLoss()
    assert float(loss(x, x)) == 0.0
    assert float(loss(0.5 * x, x)) == pytest.approx(6 * np.log10(2), rel=0.01)


def test_flat_step_is_adamw() -> None:
    torch.manual_seed(3)
    layer = torch.nn.Linear(5, 7)
    twin = torch.nn.Linear(5, 7)
    twin.load_state_dict(layer.state_dict())
    flat = FlatParams(layer.parameters())
    flat.rate.fill_(1e-2)
    theirs = torch.optim.AdamW(twin.parameters(), 1e-2, (0.8, 0.99), weight_decay=WEIGHT_DECAY)
    for _ in range(5):
        x = torch.randn(4, 5)
        flat.collect(torch.autograd.grad(layer(x).square().sum(), list(layer.parameters())))
        with torch.no_grad():
            flat.step()
        theirs.zero_grad()
        twin(x).square().sum().backward()
        theirs.step()
    assert torch.allclose(layer.weight, twin.weight, atol=1e-5)
    assert torch.allclose(layer.bias, twin.bias, atol=1e-5)


def test_a_gradient_that_is_not_finite_changes_only_by_decay() -> None:
    layer = torch.nn.Linear(4, 4)
    flat = FlatParams(layer.parameters())
    flat.rate.fill_(1e-2)
    before = layer.weight.detach().clone()
    flat.grad.fill_(float("nan"))
    with torch.no_grad():
        flat.step()
    assert torch.allclose(layer.weight, before, atol=1e-3)


def test_dead_codes_move_onto_latents() -> None:
    step = CodecStep(toy_model(), Plan(batch=2, crop=4096, small=True), torch.device("cpu"), lambda tensor: None)
    books = step.codebooks
    for latents in books.recent:
        latents.fill_(5.0)
    books.usage[:, :3] = 0.0
    assert books.restart() == 9
    weight = step.model.quantizer.quantizers[0].codebook.weight
    assert torch.equal(weight[:3], torch.full_like(weight[:3], 5.0))
    assert not bool((weight[3:] == 5.0).any())
    average = step.generator.view_of(weight, step.generator.average)
    assert torch.equal(average[:3], torch.full_like(average[:3], 5.0))


def test_pool_follows_growing_files_and_shares_them(tmp_path: Path) -> None:
    first = write_clips(tmp_path, "tara-000", [5000, 3000])
    write_clips(tmp_path, "leo-000", [4000])
    pool = audio_pool.AudioPool(("tara", "leo"), torch.device("cpu"), 0.001, tmp_path, rank=0, world=1)
    pool.wait(4000, seconds=0.0)
    pool.fill(100_000)
    assert pool.filled == [8000, 4000]
    with (tmp_path / "tara-000.pcm").open("ab") as file:
        file.write(first.tobytes())
    assert pool.fill(100_000) == 0  # the index does not name these samples yet
    with (tmp_path / "tara-000.jsonl").open("a") as file:
        file.write(json.dumps({"id": 9, "start": 8000, "length": 8000}) + '\n{"id": 10, "sta')
    assert pool.fill(100_000) == 8000
    assert np.array_equal(pool.samples[0, :16000].numpy(), np.concatenate([first, first]))
    crops = pool.crops(6, 2048)
    assert crops.shape == (6, 1, 2048)
    assert float(crops.abs().max()) <= 1.0


def test_ranks_take_different_files(tmp_path: Path) -> None:
    for worker in range(4):
        write_clips(tmp_path, f"tara-{worker:03d}", [3000], first_id=worker)
    pools = [
        audio_pool.AudioPool(("tara",), torch.device("cpu"), 0.001, tmp_path, rank=rank, world=2) for rank in range(2)
    ]
    taken = [{file.pcm.stem for file in pool.mine("tara")} for pool in pools]
    assert taken == [{"tara-000", "tara-002"}, {"tara-001", "tara-003"}]


def test_encode_gives_snac_codes_in_slot_order(tmp_path: Path) -> None:
    save_toy(tmp_path / "codec")
    model = encode.load_shipped(tmp_path / "codec", torch.device("cpu"))
    lengths = [3 * FRAME - 100, 2 * FRAME, 5 * FRAME, 3 * FRAME, 3 * FRAME + 1]
    sound = write_clips(tmp_path / "audio", "tara-000", lengths)
    write_clips(tmp_path / "audio", "leo-001", [4 * FRAME], first_id=7)
    encode.main(["--work", str(tmp_path), "--device", "cpu", "--budget", "20000"])
    found = np.load(tmp_path / "codes" / "tara.npz")
    assert found["id"].tolist() == [0, 2, 3, 4]  # two frames are too few
    assert found["frames"].tolist() == [3, 5, 3, 4]
    assert found["codes"].dtype == np.uint16
    assert np.load(tmp_path / "codes" / "leo.npz")["codes"].shape == (4, 7)
    starts = np.cumsum([0, *lengths])
    for clip, begin, frames in zip(found["id"], found["start"], found["frames"], strict=True):
        audio = torch.from_numpy(sound[starts[clip] : starts[clip + 1]].astype(np.float32) / 32768)
        coarse, middle, fine = (code[0].numpy() for code in model.encode(audio.view(1, 1, -1)))
        expected = [
            coarse, middle[0::2], fine[0::4], fine[1::4], middle[1::2], fine[2::4], fine[3::4],
        ]  # fmt: skip
        assert np.mean(found["codes"][begin : begin + frames] == np.stack(expected, 1)) > 0.97


def test_export_keeps_what_serving_needs(tmp_path: Path) -> None:
    save_toy(tmp_path / "codec")
    encode.main(["--work", str(tmp_path), "--export", str(tmp_path / "ship")])
    state = torch.load(tmp_path / "ship" / "pytorch_model.bin")
    assert {name.split(".")[0] for name in state} == {"quantizer", "decoder"}
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    encode.main(["--work", str(tmp_path), "--export", str(tmp_path / "ship"), "--with-encoder"])
    snac.SNAC.from_pretrained(str(tmp_path / "ship"))


def test_critics_first_layers_are_plain_convolutions() -> None:
    period, spectrum = discriminators.PeriodCritic(3, (8, 8)), discriminators.SpectrumCritic(512, 8)
    x = torch.randn(2, 1, 30, 3)
    assert torch.allclose(period.first(period.layers[0], x), period.layers[0](x), atol=1e-5)
    x = torch.randn(2, 7, 33, 2)
    plain = spectrum.layers[0](x.permute(0, 3, 1, 2))
    assert torch.allclose(spectrum.first(spectrum.layers[0], x), plain, atol=1e-5)
