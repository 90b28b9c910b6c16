"""Long sequences as windows and back."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasthmr.temporal.windows import fade_weights, join_windows, split_windows, window_starts


@given(frames=st.integers(1, 200), size=st.integers(1, 30), overlap=st.integers(0, 29))
def test_windows_cover_everything_and_join_to_what_they_were(frames, size, overlap):
    overlap = min(overlap, size - 1)
    starts = window_starts(frames, size, overlap)
    assert starts[0] == 0 and starts[-1] == max(frames - size, 0)
    assert all(0 < b - a <= size - overlap for a, b in pairwise(starts))
    sequence = torch.linspace(0, 1, frames)[:, None] * torch.tensor([[1.0, -2.0]])
    windows = split_windows(sequence, size, overlap)
    assert windows.shape == (len(starts), size, 2)
    torch.testing.assert_close(join_windows(windows, frames, overlap), sequence, atol=1e-5, rtol=0)


def test_seams_are_faded():
    windows = torch.stack([torch.zeros(10, 1), torch.ones(10, 1)])
    joined = join_windows(windows, 15, overlap=5)[:, 0]
    assert bool((joined[:5] == 0).all()) and bool((joined[10:] == 1).all())
    assert bool((joined.diff() >= 0).all()) and joined.diff().max() < 0.2
    assert joined[7] == 0.5
    assert fade_weights(5).tolist() == [1, 2, 3, 2, 1]


def test_last_window_may_overlap_more():
    assert window_starts(243) == (0,)
    assert window_starts(244) == (0, 1)
    assert window_starts(500, 243, 0) == (0, 243, 257)


def test_short_sequences_fill_one_window():
    sequence = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    windows = split_windows(sequence, 34, overlap=0)  # 33 is a multiple of 11
    assert windows.shape == (1, 34, 3)
    torch.testing.assert_close(join_windows(windows, 12, overlap=0), sequence)


def test_gradients_reach_every_window():
    windows = torch.zeros(3, 10, 2, requires_grad=True)
    join_windows(windows, 20, overlap=5).sum().backward()
    assert windows.grad is not None and bool((windows.grad > 0).all())


@pytest.mark.parametrize("arguments", [(0, 10, 0), (5, 10, 10), (5, 10, -1)])
def test_impossible_windows_are_refused(arguments):
    with pytest.raises(ValueError, match="window_starts"):
        window_starts(*arguments)
    with pytest.raises(ValueError, match="2 windows, 30 frames make 3"):
        join_windows(torch.zeros(2, 10, 1), 30, overlap=0)
