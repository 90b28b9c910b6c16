from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fasthmr.layers.window import WindowAttention, window_layout


def attention(dim: int = 8, heads: int = 2, window: int = 3, bias: bool = True) -> WindowAttention:
    torch.manual_seed(0)
    module = WindowAttention(dim=dim, heads=heads, window=window, qkv_bias=bias)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.eval()


def plain(module: WindowAttention, x: Tensor, size: tuple[int, int], shift: int) -> Tensor:
    """Step by step as published: pad, roll, cut, project, attend, put back, roll back, crop."""
    w, heads = module.window, module.heads
    (rows, columns), (batch, _, dim) = size, x.shape
    x = F.pad(x.unflatten(1, size), (0, 0, 0, -columns % w, 0, -rows % w))
    height, width = x.shape[1:3]
    x = x.roll((-shift, -shift), (1, 2))
    cut = x.view(batch, height // w, w, width // w, w, dim).transpose(2, 3).reshape(-1, w * w, dim)
    q, k, v = module.qkv(cut).view(-1, w * w, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    scores = (q * (dim // heads) ** -0.5) @ k.mT
    for i in range(w * w):
        for j in range(w * w):
            down, right = i // w - j // w + w - 1, i % w - j % w + w - 1
            scores[:, :, i, j] += module.relative_position_bias_table[down * (2 * w - 1) + right]
    if shift:
        bands = [
            torch.tensor([0 if i < n - w else 1 if i < n - shift else 2 for i in range(n)])
            for n in (height, width)
        ]
        region = 3 * bands[0][:, None] + bands[1]
        region = region.view(height // w, w, width // w, w).transpose(1, 2).reshape(-1, 1, w * w)
        apart = torch.where(region != region.mT, -100.0, 0.0)
        scores = scores + apart.repeat(batch, 1, 1)[:, None]
    mixed = module.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    mixed = mixed.view(batch, height // w, width // w, w, w, dim).transpose(2, 3)
    mixed = mixed.reshape(batch, height, width, dim).roll((shift, shift), (1, 2))
    return mixed[:, :rows, :columns].flatten(1, 2)


@pytest.mark.parametrize("size", [(6, 9), (7, 8), (2, 3), (1, 1)])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_the_same_as_step_by_step(size, shift, bias):
    module = attention(bias=bias)
    x = torch.randn(2, size[0] * size[1], 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = module(x, window_layout(size, 3, shift))
        assert torch.allclose(ours, plain(module, x, size, shift), atol=1e-5)


@pytest.mark.parametrize("shift", [0, 1])
def test_gradients(shift):
    module = attention(dim=4, window=2).double()
    layout = window_layout((3, 4), 2, shift)
    x = torch.randn(1, 12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    inputs = (x.requires_grad_(), *(p.detach().clone().requires_grad_() for p in module.parameters()))
    names = [name for name, _ in module.named_parameters()]

    def run(x, *weights):
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (x, layout))

    assert torch.autograd.gradcheck(run, inputs)


def test_scores_follow_weights_and_layout():
    module = attention()
    x = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        module(x, window_layout((4, 3), 3, 1))
        other = module(x, window_layout((3, 4), 3, 1))
        assert torch.allclose(other, plain(module, x, (3, 4), 1), atol=1e-5)
        module.relative_position_bias_table.mul_(2)
        assert torch.allclose(module(x, window_layout((3, 4), 3, 1)), plain(module, x, (3, 4), 1), atol=1e-5)


def test_every_token_has_one_place():
    layout = window_layout((5, 4), 3, 1)
    assert layout.windows == 4 and layout.padded
    assert torch.equal(layout.gather[layout.scatter], torch.arange(20))
    assert int((layout.gather == 20).sum()) == 36 - 20
    assert not window_layout((6, 3), 3, 1).padded


def test_heads_must_fit():
    with pytest.raises(ValueError, match="not a multiple of heads=3"):
        WindowAttention(dim=8, heads=3, window=2)
