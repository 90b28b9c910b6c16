"""The scan of maps: in place against four copied orders."""

from __future__ import annotations

import pytest
import torch

from fasthmr.layers.ss2d import SS2D, cross_merge, cross_scan


def block(**options) -> SS2D:
    torch.manual_seed(0)
    module = SS2D(6, **options)
    for parameter in module.parameters():  # as if trained: nothing is zero or one by accident
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def maps(rows: int, columns: int, batch: int = 2, dim: int = 6) -> torch.Tensor:
    return torch.randn(batch, rows, columns, dim, generator=torch.Generator().manual_seed(rows))


OPTIONS = [{}, {"ratio": 1}, {"state": 3, "conv_bias": True}, {"ratio": 0.5, "rank": 2, "kernel": 5}]


def test_orders():
    x = torch.arange(6.0).view(1, 2, 3, 1)
    orders = cross_scan(x)[0, :, 0].tolist()
    assert orders == [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]
    assert torch.equal(cross_merge(cross_scan(x), (2, 3)), 4 * x)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (6, 4), (3, 11)])
@pytest.mark.parametrize("options", OPTIONS)
def test_equals_the_published_form(options, size):
    module, x = block(**options).eval(), maps(*size)
    with torch.no_grad():
        expected = module.plain(x)
        found = module(x)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(module(x), expected, atol=1e-5)  # with gradients recorded


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_are_those_of_the_published_form(options):
    module, x = block(**options).double(), maps(4, 5).double().requires_grad_()
    wanted = [x, *module.parameters()]
    projection = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, expected = (
        torch.autograd.grad((form(x) * projection).sum(), wanted) for form in (module, module.plain)
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scans_stay_in_single_precision(dtype):
    module = block()
    kept = {name: getattr(module, name).detach().clone() for name in ("A_logs", "Ds", "dt_projs_bias")}
    module.to(dtype)
    for name, value in kept.items():
        assert torch.equal(getattr(module, name), value)
    assert module.in_proj.weight.dtype == module.x_proj_weight.dtype == dtype
    x = maps(8, 6)
    with torch.no_grad():
        found, expected = module(x.to(dtype)), block()(x)
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < 0.03 * expected.abs().max()


def test_autocast():
    module, x = block(), maps(8, 6)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x)
    assert (found.float() - expected).abs().max() < 0.03 * expected.abs().max()
    found.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_start():
    torch.manual_seed(0)
    module = SS2D(64, ratio=1, state=2)
    delta = torch.nn.functional.softplus(module.dt_projs_bias)
    assert delta.min() >= 0.001 and delta.max() <= 0.1 + 1e-6
    assert torch.allclose(module.A_logs.exp(), torch.tensor([1.0, 2.0]).expand(256, 2))
    assert (module.Ds == 1).all() and module.rank == 4
