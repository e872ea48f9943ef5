"""The benchmarks' ears: they find a delay, a lost tail and a wrong pitch where there is one."""

import numpy as np
import pytest

from api.audio import encoder_for
from benchmarks.hearing import RATE, Samples, decoded, match, pitch_ratio, pitch_track
from schemas.speech import ResponseFormat


def buzz(seconds: float, hertz: float) -> Samples:
    t = np.arange(round(seconds * RATE)) / RATE
    return 4000 * np.sum([np.sin(2 * np.pi * hertz * k * t) / k for k in range(1, 15)], axis=0)


def noise(samples: int) -> Samples:
    return 3000 * np.random.default_rng(3).standard_normal(samples)


def test_finds_the_delay() -> None:
    speech = noise(RATE)
    found = match(np.concatenate([np.zeros(1105), speech, np.zeros(70)]), speech)
    assert found.delay == 1105
    assert found.correlation == pytest.approx(1, abs=0.01)
    assert found.tail == pytest.approx(1)


def test_misses_a_lost_tail() -> None:
    speech = noise(RATE)
    found = match(speech[:-900], speech)
    assert found.correlation > 0.9
    assert found.tail < 0.6


def test_other_speech_does_not_match() -> None:
    assert match(noise(RATE), buzz(1, 120)).correlation < 0.3


@pytest.mark.parametrize("hertz", [85, 120, 210])
def test_hears_the_pitch_of_a_voice_and_none_in_noise(hertz: float) -> None:
    assert np.median(pitch_track(buzz(0.3, hertz))) == pytest.approx(hertz, rel=0.01)
    assert np.isnan(pitch_track(noise(RATE // 3))).all()


def test_hears_a_voice_that_is_played_faster() -> None:
    slow = buzz(1, 120)
    assert pitch_ratio(buzz(0.5, 120), slow, 2.0) == pytest.approx(1, abs=0.01)
    assert pitch_ratio(buzz(0.5, 240), slow, 2.0) == pytest.approx(2, abs=0.02)
    assert pitch_ratio(buzz(1, 126), slow, 1.0) == pytest.approx(1.05, abs=0.01)


@pytest.mark.parametrize("audio_format", list(ResponseFormat))
def test_decodes_what_has_arrived_so_far(audio_format: ResponseFormat) -> None:
    encoder = encoder_for(audio_format)
    speech = buzz(0.5, 120)
    data = encoder.encode(speech.astype("<i2").tobytes()) + encoder.flush()
    whole, part = (decoded(data[:length], audio_format.value) for length in (len(data), len(data) // 2))
    assert len(decoded(data[:3], audio_format.value)) <= 1
    assert 0 < len(part) < len(whole)
    assert match(whole, speech).correlation > 0.95
