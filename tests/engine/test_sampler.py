"""The samplers against transformers' warpers, and both of them on logits that a test chooses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine.model import sampler
from engine.model.llama import TorchLlama
from engine.model.native import NativeLlama
from engine.model.slots import Sampling, SlotState
from engine.model.weights import END_ROW, LayerWeights, LlamaShape, LlamaWeights, slot_heads
from engine.prompt import CODEBOOK_SIZE, FRAME_TOKENS, TokenLayout
from tests.engine.language import CPU, GREEDY, NEVER, Model, Voice, converse, sampling
from tests.tiny import CUSTOM_BASE, END_OF_SPEECH, FIRST_AUDIO, VOCAB

HIDDEN = 32
Scripted = Callable[..., Model]


@pytest.fixture(params=["torch", "native"])
def scripted(request: pytest.FixtureRequest, kernel_cache: Path) -> Scripted:
    """`scripted(codes, end, slots)`: a model whose logits are the same at every step: `codes` [7, 4096] and `end`.

    Its layers add nothing, and each hidden state is (1, ..., 1).
    """

    def build(codes: torch.Tensor, end: float = -50.0, slots: int = 1) -> Model:
        shape = LlamaShape(
            1, HIDDEN, 1, 1, HIDDEN, 16, VOCAB, 0.0, {"rope_type": "default", "rope_theta": 1e4}, 4096, False
        )
        head = torch.full((VOCAB, HIDDEN), 40.0 / HIDDEN)
        head[FIRST_AUDIO : FIRST_AUDIO + codes.numel()] = codes.reshape(-1, 1) / HIDDEN
        head[END_OF_SPEECH] = end / HIDDEN
        ones, zeros = torch.ones(HIDDEN), torch.zeros
        layer = LayerWeights(
            ones, zeros(3 * HIDDEN, HIDDEN), zeros(HIDDEN, HIDDEN), ones, zeros(32, HIDDEN), zeros(HIDDEN, 16)
        )
        layout = TokenLayout(120, 121, *(CUSTOM_BASE + number for number in (3, 4, 5, 1, 2, 10)))
        weights = LlamaWeights(torch.ones(VOCAB, HIDDEN), [layer], ones, head, slot_heads(head, layout))
        if request.param == "torch":
            return TorchLlama(shape, weights, layout, slots, 1024)
        return NativeLlama(shape, weights, layout, slots, 1024, kernel_cache)

    return build


def frames_of(model: Model, setting: Sampling, frames: int, min_frames: int = NEVER) -> list[list[int]]:
    return converse(model, [Voice([1, 2, 3], setting, frames=frames, min_frames=min_frames)])[0]


def many_frames(model: Model, setting: Sampling, slots: int, frames: int) -> list[list[int]]:
    """Frames of `slots` streams with seeds of their own, all independent."""
    voices = [Voice([1, 2], replace(setting, seed=1000 * slot), slot=slot, frames=frames) for slot in range(slots)]
    return [frame for codes in converse(model, voices) for frame in codes]


def state_of(setting: Sampling, rows: int) -> SlotState:
    state = SlotState(rows, CPU)
    for slot in range(rows):
        state.start(slot, 0, 0, setting)
    return state


@pytest.fixture
def logits() -> torch.Tensor:
    """Eight rows of 4096 codes and the end of speech."""
    return torch.randn(8, CODEBOOK_SIZE + 1, generator=torch.Generator().manual_seed(1)) * 3


# ---- against transformers


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.1, 1.3, 5.0])
def test_penalty_equals_transformers(logits: torch.Tensor, penalty: float) -> None:
    state = state_of(sampling(repetition_penalty=penalty), rows=8)
    seen = torch.randint(CODEBOOK_SIZE, (8, 50), generator=torch.Generator().manual_seed(2))
    for row in range(8):
        state.last_seen[row, 3, seen[row]] = torch.arange(50, dtype=torch.int32) * FRAME_TOKENS + 3
    state.frame[:] = 50
    codes = logits[:, :CODEBOOK_SIZE]
    mine = sampler._penalised(codes, 3, state.frame * FRAME_TOKENS + 3, state, torch.arange(8))
    assert torch.equal(mine, RepetitionPenaltyLogitsProcessor(penalty)(seen, codes.clone()))


@pytest.mark.parametrize("top_k", [1, 2, 50, 4096, 4097])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.7])
def test_top_k_keeps_what_transformers_keeps(logits: torch.Tensor, top_k: int, temperature: float) -> None:
    expected = TopKLogitsWarper(top_k)(None, TemperatureLogitsWarper(temperature)(None, logits))
    kept = sampler._truncated(logits / temperature, torch.full((8,), top_k), torch.ones(8))
    assert torch.equal(kept, expected)


@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("top_k", [0, 100])
def test_top_p_keeps_what_transformers_keeps(logits: torch.Tensor, top_p: float, top_k: int) -> None:
    expected = TopKLogitsWarper(top_k)(None, logits) if top_k else logits
    # In double precision, so that its own rounding is not what is compared.
    expected = TopPLogitsWarper(top_p)(None, expected.double()).float()
    kept = sampler._truncated(logits, torch.full((8,), top_k), torch.full((8,), top_p))
    assert torch.equal(kept, expected)


def test_rows_are_truncated_each_by_its_own_setting(logits: torch.Tensor) -> None:
    top_k = torch.tensor([0, 1, 5, 50, 0, 7, 4097, 2])
    top_p = torch.tensor([0.5, 1.0, 0.9, 0.1, 1.0, 0.99, 0.3, 0.7])
    together = sampler._truncated(logits, top_k, top_p)
    for row in range(8):
        alone = sampler._truncated(logits[row : row + 1], top_k[row : row + 1], top_p[row : row + 1])
        assert torch.equal(together[row], alone[0])


DRAWS = {
    "plain": sampling(temperature=1.0, top_p=1.0, repetition_penalty=1.0),
    "cool": sampling(temperature=0.5, top_p=1.0, repetition_penalty=1.0),
    "top-p": sampling(temperature=1.6, top_p=0.7, repetition_penalty=1.0),
    "both": sampling(temperature=0.8, top_p=0.9, top_k=9, repetition_penalty=1.0),
}


@pytest.mark.parametrize("setting", DRAWS.values(), ids=DRAWS)
def test_drawn_frequencies_are_those_of_transformers(scripted: Scripted, setting: Sampling) -> None:
    generator = torch.Generator().manual_seed(3)
    codes = torch.full((FRAME_TOKENS, CODEBOOK_SIZE), -30.0)
    likely = torch.randint(CODEBOOK_SIZE, (FRAME_TOKENS, 20), generator=generator)
    codes.scatter_(1, likely, torch.randn(FRAME_TOKENS, 20, generator=generator))
    warped = TemperatureLogitsWarper(setting.temperature)(None, codes)
    if setting.top_k:
        warped = TopKLogitsWarper(setting.top_k)(None, warped)
    if setting.top_p < 1.0:
        warped = TopPLogitsWarper(setting.top_p)(None, warped)
    expected = warped.softmax(-1)

    frames = many_frames(scripted(codes, slots=40), setting, slots=40, frames=12)
    for k in range(FRAME_TOKENS):
        drawn = torch.bincount(torch.tensor([frame[k] for frame in frames]), minlength=CODEBOOK_SIZE)
        possible = expected[k] > 1e-6
        assert not drawn[~possible].any()
        wanted = expected[k][possible] * len(frames)
        degrees = max(int(possible.sum()) - 1, 1)
        statistic = float(((drawn[possible] - wanted) ** 2 / wanted).sum())
        # Five standard deviations of a chi-square above its mean.
        assert statistic < degrees + 5 * math.sqrt(2 * degrees) + 5


# ---- what may be drawn


@pytest.mark.parametrize("code", [0, 1, 4094, 4095])
@pytest.mark.parametrize("setting", [GREEDY, sampling(seed=5)], ids=["greedy", "sampled"])
def test_the_first_and_the_last_codes_can_be_drawn(scripted: Scripted, code: int, setting: Sampling) -> None:
    logits = torch.full((FRAME_TOKENS, CODEBOOK_SIZE), -20.0)
    logits[:, code] = 20.0
    assert frames_of(scripted(logits), setting, frames=3) == [[code] * FRAME_TOKENS] * 3


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_nothing_beyond_the_codebook_is_ever_drawn(scripted: Scripted, temperature: float) -> None:
    # Every other row of the vocabulary has a logit of 40, the head's padding one of 0.
    logits = torch.full((FRAME_TOKENS, CODEBOOK_SIZE), -30.0)
    setting = sampling(temperature=temperature, top_p=1.0, repetition_penalty=1.0)
    for frame in frames_of(scripted(logits, end=50.0), setting, frames=40):
        assert all(0 <= code < CODEBOOK_SIZE for code in frame)


def test_uniform_logits_reach_the_whole_codebook(scripted: Scripted) -> None:
    setting = sampling(temperature=1.0, top_p=1.0, repetition_penalty=1.0)
    model = scripted(torch.zeros(FRAME_TOKENS, CODEBOOK_SIZE), slots=20)
    frames = many_frames(model, setting, slots=20, frames=10)
    drawn = torch.tensor(frames).flatten().float()
    assert drawn.min() < 40
    assert drawn.max() > 4055
    assert abs(float(drawn.mean()) - 2047.5) < 5 * 4096 / math.sqrt(12 * len(drawn))


@pytest.mark.parametrize("min_frames", [0, 1, 2, 5])
@pytest.mark.parametrize("setting", [GREEDY, sampling(seed=6)], ids=["greedy", "sampled"])
def test_speech_ends_at_slot_0_and_not_before_min_frames(
    scripted: Scripted, min_frames: int, setting: Sampling
) -> None:
    model = scripted(torch.full((FRAME_TOKENS, CODEBOOK_SIZE), -20.0), end=20.0)
    voice = Voice([1, 2, 3], setting, frames=9, min_frames=min_frames)
    converse(model, [voice])
    assert voice.ended
    assert len(voice.codes) == min_frames


def test_the_end_of_speech_is_drawn_as_often_as_its_logit_says(scripted: Scripted) -> None:
    logits = torch.full((FRAME_TOKENS, CODEBOOK_SIZE), -30.0)
    logits[:, 7] = 0.0
    setting = sampling(temperature=1.0, top_p=1.0, repetition_penalty=1.0)
    model = scripted(logits, end=math.log(1 / 3), slots=150)
    voices = [Voice([1, 2], replace(setting, seed=slot), slot=slot, frames=140, min_frames=0) for slot in range(150)]
    converse(model, voices)
    assert all(voice.ended for voice in voices)
    lengths = [len(voice.codes) for voice in voices]
    # A geometric distribution: the end has a share of 1/4, so 3 frames on average, with a deviation of sqrt(12).
    assert abs(sum(lengths) / len(lengths) - 3.0) < 5 * math.sqrt(12 / len(lengths))


def test_the_end_of_speech_is_not_penalised(scripted: Scripted) -> None:
    logits = torch.full((FRAME_TOKENS, CODEBOOK_SIZE), -20.0)
    logits[:, 9] = 4.0
    # After one frame the penalty has halved code 9; the end, at 3, is then the best.
    voice = Voice([1, 2], sampling(temperature=0.0, repetition_penalty=2.0), frames=5, min_frames=0)
    converse(scripted(logits, end=3.0), [voice])
    assert voice.ended
    assert voice.codes == [[9] * FRAME_TOKENS]


def test_temperature_0_is_greedy(scripted: Scripted) -> None:
    logits = torch.randn(FRAME_TOKENS, CODEBOOK_SIZE, generator=torch.Generator().manual_seed(4)) * 0.01
    setting = sampling(temperature=0.0, top_p=0.5, top_k=50, repetition_penalty=1.0)
    assert frames_of(scripted(logits), setting, frames=4) == [logits.argmax(-1).tolist()] * 4


def test_of_equally_good_codes_greedy_takes_the_first(scripted: Scripted) -> None:
    logits = torch.zeros(FRAME_TOKENS, CODEBOOK_SIZE)
    logits[:, [100, 2000, 4095]] = 1.0
    assert frames_of(scripted(logits), GREEDY, frames=2) == [[100] * FRAME_TOKENS] * 2


@pytest.mark.parametrize("temperature", [1e-9, 1e-3, 0.01])
def test_the_smallest_temperatures_draw_the_best_code(scripted: Scripted, temperature: float) -> None:
    logits = torch.arange(CODEBOOK_SIZE).float().mul(0.1).repeat(FRAME_TOKENS, 1)
    setting = sampling(temperature=temperature, top_p=1.0, repetition_penalty=1.0)
    assert frames_of(scripted(logits), setting, frames=4) == [[CODEBOOK_SIZE - 1] * FRAME_TOKENS] * 4


@pytest.mark.parametrize("spread", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("top_k", [0, 1, 3, 4096, 4097])
@pytest.mark.parametrize("top_p", [1e-6, 0.5, 1.0])
def test_no_setting_and_no_logits_break_the_draw(scripted: Scripted, spread: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(FRAME_TOKENS, CODEBOOK_SIZE, generator=torch.Generator().manual_seed(5)) * spread
    setting = sampling(temperature=2.0, top_k=top_k, top_p=top_p)
    frames = frames_of(scripted(logits), setting, frames=3)
    assert all(0 <= code < CODEBOOK_SIZE for frame in frames for code in frame)
    if top_p == 1e-6:
        assert frames[0] == logits.argmax(-1).tolist()


# ---- the repetition window


def brute_force(logits: torch.Tensor, penalty: float, window: int, frames: int) -> list[list[int]]:
    """Greedy codes by the definition: of the latest `window` tokens, those of this slot are penalised."""
    history: list[tuple[int, int]] = []
    for step in range(frames * FRAME_TOKENS):
        k = step % FRAME_TOKENS
        scores = logits[k].clone()
        recent = history[-window:] if window else history
        for code in {code for slot, code in recent if slot == k}:
            scores[code] = scores[code] / penalty if scores[code] > 0 else scores[code] * penalty
        history.append((k, int(scores.argmax())))
    return [[code for _, code in history[i : i + FRAME_TOKENS]] for i in range(0, len(history), FRAME_TOKENS)]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_repetition_window_is_exact(scripted: Scripted, sign: float) -> None:
    windows = [0, 1, 6, 7, 8, 13, 14, 20, 21, 64, 1_000_000]
    logits = torch.full((FRAME_TOKENS, CODEBOOK_SIZE), -1e4)
    # Twelve codes close together: each penalty makes the next one the best.
    logits[:, 50:62] = sign * torch.linspace(3.0, 2.0, 12).roll(3)
    setting = sampling(temperature=0.0, repetition_penalty=4.0)
    # Each window in a row of its own.
    voices = [
        Voice([1, 2, 3], replace(setting, window=window), slot=slot, frames=30) for slot, window in enumerate(windows)
    ]
    spoken = converse(scripted(logits, slots=len(windows)), voices)
    for window, frames in zip(windows, spoken, strict=True):
        assert frames == brute_force(logits, 4.0, window, frames=30), f"window {window}"
        assert (window >= FRAME_TOKENS or window == 0) == (len({frame[0] for frame in frames}) > 1)


def test_a_new_stream_in_a_slot_remembers_nothing(scripted: Scripted) -> None:
    logits = torch.linspace(3.0, 2.0, CODEBOOK_SIZE).repeat(FRAME_TOKENS, 1)
    model = scripted(logits)
    setting = sampling(temperature=0.0, repetition_penalty=4.0)
    assert frames_of(model, setting, frames=10) == frames_of(model, setting, frames=10)


# ---- broken weights


def test_logits_that_are_no_numbers_do_not_leave_the_codebook(scripted: Scripted) -> None:
    logits = torch.full((FRAME_TOKENS, CODEBOOK_SIZE), torch.nan)
    for setting in (sampling(), sampling(top_k=5), sampling(top_p=1.0), GREEDY):
        for frame in frames_of(scripted(logits), setting, frames=2):
            assert all(0 <= code < CODEBOOK_SIZE for code in frame)


def test_end_row_comes_right_after_the_codes() -> None:
    assert END_ROW == CODEBOOK_SIZE
