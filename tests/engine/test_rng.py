"""The keyed generator against SplitMix64 written out with Python's integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.model import rng
from engine.model.rng import keyed_bits, keyed_normal, keyed_uniform

MASK = 2**64 - 1
INT64 = st.integers(-(2**63), 2**63 - 1)
EXTREME_BITS = (-1, 0, 1, 2**63 - 1, -(2**63), -(2**40), -(2**41), 2**40 - 1, 0xFFFFFF)


def split_mix(key: int, counter: int) -> int:
    """The counter-th output of the SplitMix64 stream that `key` starts."""
    z = (key + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


def test_the_first_outputs_are_the_published_ones() -> None:
    # The stream of seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64").
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert keyed_bits(torch.tensor(1234567), torch.arange(5)).tolist() == [signed(value) for value in published]


@given(key=INT64, counter=st.integers(-(2**62), 2**62))
def test_bits_are_split_mix(key: int, counter: int) -> None:
    assert int(keyed_bits(torch.tensor(key), torch.tensor(counter))) == signed(split_mix(key, counter))


@given(key=INT64, counter=st.integers(0, 2**40))
def test_uniform_is_the_middle_of_one_of_2_to_the_23_equal_parts(key: int, counter: int) -> None:
    exact = ((split_mix(key, counter) >> 41) + 0.5) / 2**23
    assert float(keyed_uniform(torch.tensor(key), torch.tensor(counter))) == exact


@pytest.mark.parametrize("bits", EXTREME_BITS)
def test_uniform_is_never_0_and_never_1(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    monkeypatch.setattr(rng, "keyed_bits", lambda key, counter: torch.full_like(key, bits))
    assert 0.0 < float(keyed_uniform(torch.tensor(0), torch.tensor(0))) < 1.0


@pytest.mark.parametrize("bits", EXTREME_BITS)
def test_normal_is_finite_for_any_bits(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    monkeypatch.setattr(rng, "keyed_bits", lambda key, counter: torch.full_like(key, bits))
    value = float(keyed_normal(torch.tensor(0), torch.tensor(0)))
    assert -6.0 < value < 6.0


def test_normal_has_the_moments_of_one() -> None:
    values = keyed_normal(torch.tensor(5), torch.arange(200_000)).double()
    assert abs(float(values.mean())) < 0.01
    assert abs(float(values.var()) - 1.0) < 0.02
    assert abs(float((values**4).mean()) - 3.0) < 0.1


def test_neighbouring_keys_and_counters_are_unrelated() -> None:
    values = keyed_normal(torch.arange(200)[:, None], torch.arange(200)).double()
    for a, b in ((values[1:], values[:-1]), (values[:, 1:], values[:, :-1]), (values, values.T + 1e-9)):
        correlation = float((a * b).mean())
        assert abs(correlation) < 0.03


def test_key_and_counter_broadcast() -> None:
    keys, counters = torch.tensor([[3], [-4]]), torch.tensor([0, 7, 2**40])
    table = keyed_bits(keys, counters)
    assert table.dtype == torch.int64
    assert table.shape == (2, 3)
    assert int(table[1, 2]) == signed(split_mix(-4, 2**40))
