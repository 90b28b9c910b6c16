"""The selective scan in chunks against its definition: values, gradients, extremes."""

from __future__ import annotations

import pytest
import torch

from fasthmr.layers.scan import add_scan, selective_scan, selective_scan_reference


def arguments(
    *,
    batch: int = 2,
    groups: int = 2,
    width: int = 3,
    state: int = 1,
    tokens: int = 70,
    rests: bool = True,
    dtype: torch.dtype = torch.float64,
) -> list[torch.Tensor | None]:
    """u, delta, A, B, C, D and bias."""
    generator = torch.Generator().manual_seed(tokens + state)
    channels = groups * width

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator, dtype=dtype)

    rest = [normal(channels), normal(channels) - 1] if rests else [None, None]
    weights = [normal(batch, groups, state, tokens) for _ in range(2)]
    rates = -torch.rand((channels, state), generator=generator, dtype=dtype) - 0.1
    return [normal(batch, channels, tokens), normal(batch, channels, tokens), rates, *weights, *rest]


CASES = [
    {},
    {"tokens": 1},
    {"tokens": 32},
    {"tokens": 257, "groups": 1},
    {"state": 4},
    {"state": 3, "tokens": 33, "batch": 1, "rests": False},
]


@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("sizes", CASES)
def test_equals_the_definition(sizes, softplus):
    given = arguments(**sizes)
    if not softplus:
        given[1] = given[1].abs() * 0.1
    kept = [None if x is None else x.clone() for x in given]
    expected = selective_scan_reference(*given, delta_softplus=softplus)
    assert torch.allclose(selective_scan(*given, delta_softplus=softplus), expected, atol=1e-12)
    for x, before in zip(given, kept, strict=True):
        assert x is None or torch.equal(x, before)


@pytest.mark.parametrize("rests", [True, False])
def test_arguments_stay_as_they_are_in_any_layout(rests):
    given = arguments(rests=rests)
    given[:2] = [x.mT.contiguous().mT for x in given[:2]]
    kept = [None if x is None else x.clone() for x in given]
    selective_scan(*given)
    assert all(x is None or torch.equal(x, before) for x, before in zip(given, kept, strict=True))


@pytest.mark.parametrize("sizes", CASES)
def test_gradients_are_those_of_the_definition(sizes):
    given = [x.requires_grad_() if x is not None else x for x in arguments(**sizes)]
    wanted = [x for x in given if x is not None]
    projection = torch.randn(given[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, expected = (
        torch.autograd.grad((form(*given) * projection).sum(), wanted)
        for form in (selective_scan, selective_scan_reference)
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12 * float(theirs.abs().max().clamp(min=1)))


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("state", "softplus"), [(1, True), (1, False), (2, True)])
def test_gradients_against_differences(state, softplus, reverse, columns):
    generator = torch.Generator().manual_seed(state)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64)

    sizes = (2, 3, 4)
    u, delta, y = (normal(*sizes, 2) for _ in range(3))
    rates = -torch.rand((2, state), generator=generator, dtype=torch.float64) - 0.1
    tensors = [y, u, delta if softplus else delta.abs(), rates, normal(*sizes, state), normal(*sizes, state)]

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        y, u, delta, rates, into, out = tensors
        if columns:
            y, u, delta, into, out = (x.transpose(1, 2) for x in (y, u, delta, into, out))
        return add_scan(y, u, delta, rates, into, out, reverse=reverse, softplus=softplus)

    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in tensors])


def test_single_precision_over_many_tokens():
    given = arguments(batch=1, groups=1, width=2, tokens=3072)
    given[2] = torch.full_like(given[2], -1e-4)  # remembers everything
    expected = selective_scan_reference(*given)
    found = selective_scan(*(x.float() for x in given)).double()
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("bias", "rate"), [(-60.0, -1.0), (30.0, -50.0), (300.0, -1e4), (1e4, -1.0)])
def test_extreme_decays_give_finite_numbers(bias, rate):
    given = arguments(batch=1, tokens=200, dtype=torch.float32)
    given[6] = torch.full_like(given[6], bias)
    given[2] = torch.full_like(given[2], rate)
    expected = selective_scan_reference(*given)
    found = selective_scan(*given)
    assert found.isfinite().all()
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
