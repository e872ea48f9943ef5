"""How often processes were lost in a row, when the next start comes, and which requests were there."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from engine.lives import STEADY_SECONDS, Lives
from engine.messages import Generate
from engine.suspects import MEMORY_SECONDS, Suspects
from engine.text import TextChunk


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lived(lives: Lives, clock: Clock, load: float, seconds: float | None) -> None:
    """One process: loads, is ready for so many seconds (None: never), and is lost."""
    lives.born()
    clock.now += load
    if seconds is not None:
        lives.ready()
        clock.now += seconds
    lives.lost()


def test_starts_are_further_and_further_apart_up_to_a_bound(clock: Clock) -> None:
    lives, pauses = Lives(clock), []
    for _ in range(8):
        lived(lives, clock, load=5.0, seconds=1.0)
        pauses.append(lives.pause)
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[4:] == [10.0] * 4
    assert lives.losses == 8
    # An operator may let it go on for ever.
    lives.losses = 100_000
    assert lives.pause == 10.0


def test_a_steady_life_wipes_out_the_count_and_a_long_load_does_not(clock: Clock) -> None:
    lives = Lives(clock)
    for _ in range(3):
        lived(lives, clock, load=10 * STEADY_SECONDS, seconds=1.0)
    assert lives.losses == 3
    lived(lives, clock, load=10 * STEADY_SECONDS, seconds=None)
    assert lives.losses == 4
    lived(lives, clock, load=1.0, seconds=STEADY_SECONDS + 1)
    assert lives.losses == 1


def test_one_process_is_lost_once(clock: Clock) -> None:
    lives = Lives(clock)
    lived(lives, clock, load=1.0, seconds=1.0)
    lives.lost()
    assert lives.losses == 1


def test_the_next_one_is_due_after_the_pause_and_another_load(clock: Clock) -> None:
    lives = Lives(clock)
    lived(lives, clock, load=20.0, seconds=5.0)
    assert lives.back_in == 21.0
    clock.now += 15
    assert lives.back_in == 6.0
    clock.now += 100
    assert lives.back_in == 1.0


def test_a_load_hangs_after_a_few_times_what_the_last_one_took(clock: Clock) -> None:
    lives = Lives(clock)
    lived(lives, clock, load=2.0, seconds=5.0)
    assert lives.load_limit == 60.0
    lived(lives, clock, load=100.0, seconds=5.0)
    assert lives.load_limit == 300.0


# ---- suspects


def generate(text: str, voice: str = "ana", seed: int = 1) -> Generate:
    return Generate(seed, [TextChunk(text, 0.0)], voice, 0.7, 0.95, 0, 1.1, 0, seed, None)


def test_the_same_text_at_three_losses_is_the_cause(clock: Clock) -> None:
    suspects = Suspects(clock)
    for seed in range(2):
        assert suspects.note([generate("Hello.", seed=seed), generate(f"Other {seed}.")]) == [False, False]
        clock.now += MEMORY_SECONDS - 1
    told = suspects.note([generate("Hello.", seed=2), generate("New."), generate("Hello.", voice="ben")])
    assert told == [True, False, False]


def test_a_greeting_that_is_there_at_every_loss_and_heard_in_between_is_not(clock: Clock) -> None:
    suspects = Suspects(clock)
    for seed in range(10):
        told = suspects.note([generate("Thank you for calling.", seed=seed), generate("Poison.")])
        assert told == [False, seed >= 2]
        suspects.acquit(generate("Thank you for calling.", seed=100 + seed))


def test_the_same_text_thrice_at_one_loss_is_not(clock: Clock) -> None:
    assert Suspects(clock).note([generate("Hello.")] * 3) == [False] * 3


def test_it_is_forgotten_after_some_minutes(clock: Clock) -> None:
    suspects = Suspects(clock)
    suspects.note([generate(f"Number {number}.") for number in range(100)])
    clock.now += MEMORY_SECONDS + 1
    assert suspects.note([generate("Number 7.")]) == [False]
    assert len(vars(suspects)["_seen"]) == 1


def test_no_text_is_kept(clock: Clock) -> None:
    suspects = Suspects(clock)
    suspects.note([generate("A secret.")])
    assert "secret" not in repr(vars(suspects))
    assert all(len(digest) == 16 for digest in vars(suspects)["_seen"])
