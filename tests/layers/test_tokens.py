from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasthmr.layers.embedding import PatchEmbedding, patch_grid, resize_pos_embed
from fasthmr.layers.tokens import TokenState


def test_unmerging_what_was_not_merged_gives_the_grid_back():
    tokens = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    state = TokenState.from_grid(tokens, (2, 3))
    assert torch.equal(state.unmerge((2, 3)).flatten(2).mT, tokens)
    assert state.positions[0, 5].tolist() == [1.0, 2.0]
    assert state.size.sum(1).tolist() == [6.0, 6.0]


def test_unmerging_spreads_a_token_over_its_group():
    state = TokenState.from_grid(torch.arange(4.0).view(1, 4, 1), (2, 2))
    group = torch.tensor([[0, 1, 1, 0]])
    merged = replace(
        state,
        tokens=state.tokens[:, :2],
        size=state.size[:, :2],
        positions=state.positions[:, :2],
        group=group,
    )
    assert merged.unmerge((2, 2))[0, 0].tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_a_token_is_marked_by_any_of_its_patches():
    state = TokenState.from_grid(torch.zeros(1, 4, 1), (2, 2))
    marks = torch.tensor([[False, True, False, False]])
    assert not state.merged
    assert torch.equal(state.any_patch(marks), marks)
    group = torch.tensor([[0, 1, 1, 0]])
    merged = TokenState(
        tokens=state.tokens[:, :2], size=state.size[:, :2] * 2, positions=state.positions[:, :2], group=group
    )
    assert merged.merged
    assert merged.any_patch(marks).tolist() == [[False, True]]
    assert not merged.any_patch(torch.zeros_like(marks)).any()


def test_the_grid_must_fit():
    with pytest.raises(ValueError, match="do not fill"):
        TokenState.from_grid(torch.zeros(1, 5, 4), (2, 3))


@pytest.mark.parametrize("size", [(32, 48), (37, 50), (16, 16)])
def test_patch_grid_is_what_the_convolution_gives(size):
    embed = PatchEmbedding(dim=4, patch_size=16, padding=2)
    assert embed(torch.zeros(1, 3, *size)).shape[-2:] == patch_grid(size, 16, 2)


def test_positions_resize():
    pos = torch.randn(1, 1 + 12, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(resize_pos_embed(pos, (3, 4), (3, 4)), pos, atol=1e-6)
    larger = resize_pos_embed(pos, (3, 4), (6, 8))
    assert larger.shape == (1, 49, 4)
    assert torch.equal(larger[:, 0], pos[:, 0])
    with pytest.raises(ValueError, match="too few"):
        resize_pos_embed(pos, (4, 4), (2, 2))
