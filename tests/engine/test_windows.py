"""The arithmetic of streaming: each sample of an utterance is sent once, and none besides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.windows import SAMPLES_PER_FRAME, flush_frames, window

LAGS = st.one_of(st.just(4757), st.integers(0, 5 * SAMPLES_PER_FRAME))


@given(cuts=st.lists(st.integers(1, 9), min_size=1, max_size=40), lag=LAGS)
def test_the_windows_cover_every_sample_exactly_once(cuts: list[int], lag: int) -> None:
    sent: list[int] = []
    start = 0
    for count in cuts:
        kept = window(start, count, lag)
        assert kept.keep == 0 or kept.skip + kept.keep <= count * SAMPLES_PER_FRAME
        first = start * SAMPLES_PER_FRAME - lag + kept.skip
        sent += [first, first + kept.keep] if kept.keep else []
        start += count
    kept = window(start, flush_frames(lag), lag, total=start)
    assert kept.keep == 0 or kept.skip + kept.keep <= flush_frames(lag) * SAMPLES_PER_FRAME
    first = start * SAMPLES_PER_FRAME - lag + kept.skip
    sent += [first, first + kept.keep] if kept.keep else []
    assert sent[0] == 0
    assert sent[-1] == start * SAMPLES_PER_FRAME
    # Every span begins where the one before it ended.
    assert sent[1:-1:2] == sent[2::2]


@given(lag=LAGS)
def test_the_first_sample_comes_with_the_first_frame_that_reaches_beyond_the_lag(lag: int) -> None:
    reaching = next(start for start in range(10**6) if (start + 1) * SAMPLES_PER_FRAME > lag)
    kept = [window(start, 1, lag).keep for start in range(reaching + 1)]
    assert kept[-1] > 0
    assert not any(kept[:-1])


@given(lag=LAGS)
def test_no_flush_is_longer_than_needed(lag: int) -> None:
    assert 0 <= flush_frames(lag) * SAMPLES_PER_FRAME - lag < SAMPLES_PER_FRAME


@pytest.mark.parametrize(("frames", "skip", "keep"), [(0, 4757, 0), (1, 2709, 0), (2, 661, 1387), (3, 0, 2048)])
def test_the_24_khz_codec_gives_its_first_samples_after_three_frames(frames: int, skip: int, keep: int) -> None:
    kept = window(frames, 1, lag=4757)
    assert (kept.skip, kept.keep) == (skip, keep)
    assert flush_frames(4757) == 3


def test_a_single_frame_comes_out_whole_when_it_is_flushed() -> None:
    assert window(0, 1, 4757).keep == 0
    kept = window(1, 3, 4757, total=1)
    assert (kept.skip, kept.keep) == (4757 - 2048, 2048)
