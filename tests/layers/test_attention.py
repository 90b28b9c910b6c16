from __future__ import annotations

import pytest
import torch

from fasthmr.layers.attention import SelfAttention, proportional_attention
from fasthmr.layers.block import DropPath, TransformerBlock


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_the_textbook_form():
    attention = SelfAttention(dim=12, heads=3).double()
    x = randn(2, 5, 12)
    q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in attention.qkv(x).chunk(3, -1))
    mixed = (q @ k.mT / 4**0.5).softmax(-1) @ v
    out, keys = attention(x)
    assert torch.allclose(out, attention.proj(mixed.transpose(1, 2).flatten(2)))
    assert torch.equal(keys, k)


def test_a_merged_token_counts_as_its_copies():
    q, k, v = randn(1, 2, 3, 4), randn(1, 2, 3, 4, seed=1), randn(1, 2, 3, 4, seed=2)
    copies = torch.tensor([0, 1, 1, 1, 2])
    repeated = torch.nn.functional.scaled_dot_product_attention(q, k[:, :, copies], v[:, :, copies])
    size = torch.tensor([[1.0, 3.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(proportional_attention(q, k, v, size), repeated)


def test_sizes_of_one_change_nothing():
    attention = SelfAttention(dim=8, heads=2).double()
    x = randn(2, 5, 8)
    assert torch.allclose(attention(x)[0], attention(x, torch.ones(2, 5, dtype=torch.float64))[0])


def test_block_halves_make_the_whole():
    block = TransformerBlock(dim=8, heads=2, drop_path=0.5).double().eval()
    x = randn(2, 5, 8)
    attended, keys = block.attend(x)
    assert keys.shape == (2, 2, 5, 4)
    assert torch.equal(block(x), block.feed_forward(attended))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="multiple of heads"):
        SelfAttention(dim=10, heads=3)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    y = drop(torch.ones(4000, 3))
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (y.std(dim=1) == 0).all()
    assert y.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(torch.ones(3, 3)), torch.ones(3, 3))
