"""Recurrences in chunks against the plain loop, forwards and backwards, in place and traced."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasthmr.layers.recurrence import previous, recurrence, recurrence_

SIZES = [(1, 1, 1, 1), (2, 1, 5, 3), (1, 5, 1, 2), (2, 3, 4, 3), (1, 9, 2, 2), (1, 12, 7, 2), (1, 64, 3, 1)]


def loop(decay: torch.Tensor, drive: torch.Tensor, reverse: bool) -> torch.Tensor:
    a, b = decay.flatten(1, 2), drive.flatten(1, 2)
    h = torch.zeros_like(b)
    state = torch.zeros_like(b[:, 0])
    for t in range(b.shape[1])[:: -1 if reverse else 1]:
        state = a[:, t] * state + b[:, t]
        h[:, t] = state
    return h.view_as(drive)


def inputs(sizes: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    decay = torch.rand(sizes, generator=generator, dtype=torch.float64)
    return decay, torch.randn(sizes, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_equals_the_loop(sizes, reverse):
    decay, drive = inputs(sizes)
    expected = loop(decay, drive, reverse)
    assert torch.allclose(recurrence(decay, drive, reverse=reverse), expected, atol=1e-13)
    recurrence_(decay, drive, reverse=reverse)
    assert torch.allclose(drive, expected, atol=1e-13)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.booleans(), st.integers(0, 2**16))
def test_any_chunks(chunks, steps, reverse, seed):
    decay, drive = inputs((1, chunks, steps, 2), seed)
    expected = loop(decay, drive, reverse)
    recurrence_(decay, drive, reverse=reverse)
    assert torch.allclose(drive, expected, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_columns_of_a_map_are_swept_as_views(reverse):
    decay, drive = inputs((2, 6, 11, 3))
    expected = loop(decay.transpose(1, 2), drive.transpose(1, 2), reverse).transpose(1, 2)
    recurrence_(decay.transpose(1, 2), drive.transpose(1, 2), reverse=reverse)
    assert torch.allclose(drive, expected, atol=1e-13)


def test_previous():
    x = torch.arange(1.0, 7.0).view(1, 3, 2, 1)
    assert previous(x).flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert previous(x, reverse=True).flatten().tolist() == [2, 3, 4, 5, 6, 0]


def test_decays_that_vanish_leave_numbers():
    decay = torch.full((1, 30, 30, 2), 1e-30)
    drive = torch.ones(1, 30, 30, 2)
    recurrence_(decay, drive)
    assert torch.equal(drive, torch.ones_like(drive))
