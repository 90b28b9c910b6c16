from __future__ import annotations

import pytest
import torch

from fasthmr.layers.embedding import PatchEmbedding, patch_grid
from fasthmr.reduction.mask_tokens import ellipse_mask, mask_coverage, person_patches


def test_patches_see_what_the_embedding_sees():
    """A pixel marks exactly the patches of the convolution whose window it lies in."""
    embed = PatchEmbedding(dim=1, patch_size=16, padding=2, channels=1)
    torch.nn.init.ones_(embed.proj.weight)
    torch.nn.init.zeros_(embed.proj.bias)
    pixels = torch.zeros(6, 1, 64, 48)
    for i, (y, x) in enumerate([(0, 0), (13, 14), (14, 13), (30, 29), (61, 45), (62, 46)]):
        pixels[i, 0, y, x] = 1
    with torch.no_grad():
        expected = embed(pixels)[:, 0] > 0.5
    assert torch.equal(person_patches(pixels[:, 0]), expected.flatten(1))
    assert not person_patches(pixels[5:, 0]).any()  # the last two rows and columns are unseen
    assert mask_coverage(pixels[:, 0]).shape[1:] == patch_grid((64, 48), 16, 2)


def test_share_and_dilation():
    mask = torch.zeros(1, 96, 96, dtype=torch.bool)
    mask[0, 46, 46] = True
    assert person_patches(mask, padding=0).sum() == 1
    assert person_patches(mask, padding=0, min_share=1 / 256).sum() == 1
    assert not person_patches(mask, padding=0, min_share=2 / 256).any()
    assert person_patches(mask, padding=0, dilate=1).sum() == 9
    for options in ({"min_share": 0.0}, {"min_share": 1.5}, {"dilate": -1}):
        with pytest.raises(ValueError):
            person_patches(mask, **options)


def test_the_ellipse_fills_its_box():
    boxes = torch.tensor([[8.0, 16.0, 40.0, 80.0], [0.0, 0.0, 48.0, 96.0]])
    mask = ellipse_mask(boxes, (96, 48))
    ys, xs = mask[0].nonzero().unbind(1)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (8, 39, 16, 79)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * torch.pi / 4
    torch.testing.assert_close(mask.sum((1, 2)).float(), areas, rtol=0.02, atol=0)


def test_an_empty_box_marks_nothing():
    assert not ellipse_mask(torch.tensor([[5.0, 5.0, 5.0, 5.0]]), (16, 16)).any()
