from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasthmr.reduction.cka import MinibatchCKA, cka_map, cka_minibatch


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 10))
@pytest.mark.parametrize("unbiased", [False, True])
def test_alignment_ignores_rotation_scale_and_offset(unbiased, seed, scale):
    x = randn(20, 5, seed=seed)
    rotation = torch.linalg.qr(randn(5, 5, seed=seed + 1))[0]
    similarity = cka_map([x, scale * x @ rotation + 3.0], unbiased=unbiased)
    torch.testing.assert_close(similarity, torch.ones(2, 2, dtype=torch.float64))


def test_the_frobenius_form_of_the_biased_map():
    x, y = randn(30, 5, seed=0), randn(30, 7, seed=1)
    xc, yc = x - x.mean(0), y - y.mean(0)
    expected = (yc.T @ xc).norm() ** 2 / ((xc.T @ xc).norm() * (yc.T @ yc).norm())
    torch.testing.assert_close(cka_map([x, y])[0, 1], expected)


def test_unrelated_layers_are_unrelated_without_bias():
    layers = [randn(64, 100, seed=i) for i in range(4)]
    off = ~torch.eye(4, dtype=torch.bool)
    assert cka_map(layers)[off].min() > 0.5
    assert cka_map(layers, unbiased=True)[off].abs().max() < 0.1
    assert cka_minibatch(layers, 16)[off].abs().max() < 0.2


def test_a_last_incomplete_batch_is_dropped():
    x, y = randn(24, 5, seed=0), randn(24, 4, seed=1)
    streamed = MinibatchCKA()
    for start in range(0, 24, 10):
        streamed.update([x[start : start + 10], y[start : start + 10]])
    assert torch.equal(streamed.compute(), cka_minibatch([x, y], 10))


def test_what_cannot_be_aligned():
    with pytest.raises(ValueError, match="at least 4"):
        cka_map([randn(3, 2, seed=0)], unbiased=True)
    with pytest.raises(ValueError, match="at least 2"):
        cka_map([randn(1, 2, seed=0)])
    with pytest.raises(ValueError, match="same examples"):
        cka_map([randn(8, 2, seed=0), randn(9, 2, seed=0)])
    with pytest.raises(ValueError, match="no batch"):
        MinibatchCKA().compute()
