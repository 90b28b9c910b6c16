from __future__ import annotations

import numpy as np
import pytest
import torch

from fasthmr.errors import InputError
from fasthmr.geometry.crops import IMAGENET_MEAN, IMAGENET_STD, crop_pictures


def grey_levels(pixels: torch.Tensor) -> torch.Tensor:
    return (
        pixels * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
    ) * 255


def random_picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed)).byte()


def test_a_crop_of_its_own_size_is_the_picture():
    picture = random_picture(64, 64)
    crop = crop_pictures(picture, torch.tensor([[8.0, 0.0, 56.0, 64.0]]), size=64)
    assert crop.box_size.tolist() == [64.0]
    assert torch.allclose(grey_levels(crop.pixels)[0].permute(1, 2, 0), picture.float(), atol=1e-3)


def test_matches_a_dense_bilinear_warp():
    picture = random_picture(50, 70, seed=1)
    box = torch.tensor([[-7.0, 4.5, 40.25, 61.0]])
    crop = crop_pictures(picture, box, size=32)
    (cx, cy), side = crop.box_center[0].tolist(), crop.box_size.item()
    u = (torch.arange(32) - 16) * side / 32
    grid = torch.stack(torch.meshgrid((u + cx) / 69 * 2 - 1, (u + cy) / 49 * 2 - 1, indexing="xy"), dim=-1)
    source = picture.permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.grid_sample(source, grid[None], align_corners=True)
    assert torch.allclose(grey_levels(crop.pixels), expected, atol=2e-2)


def test_large_boxes_are_blurred():
    picture = random_picture(400, 400, seed=2)
    small = crop_pictures(picture, torch.tensor([[8.0, 0.0, 56.0, 64.0]]), size=32)
    large = crop_pictures(picture, torch.tensor([[50.0, 0.0, 350.0, 400.0]]), size=32)
    assert grey_levels(large.pixels).std() < 0.6 * grey_levels(small.pixels).std()


def test_blur_can_be_left_out():
    picture = random_picture(400, 400, seed=2)
    boxes = torch.tensor([[0.0, 0.0, 400.0, 400.0]])
    sharp = crop_pictures(picture, boxes, size=32, aspect=(1, 1), antialias=False)
    every = torch.arange(32) * 400 // 32
    at_halves = picture[every][:, every].float()  # 400 / 32 = 12.5: every second pixel is hit exactly
    assert torch.allclose(
        grey_levels(sharp.pixels)[0].permute(1, 2, 0)[::2, ::2], at_halves[::2, ::2], atol=1e-3
    )


def test_a_box_outside_gives_black_and_no_box_gives_none():
    picture = random_picture(20, 30)
    outside = crop_pictures(picture, torch.tensor([[100.0, 100.0, 120.0, 140.0]]), size=16)
    assert grey_levels(outside.pixels).abs().max() < 1e-3
    nobody = crop_pictures(picture, torch.zeros(0, 4), size=16)
    assert nobody.pixels.shape == (0, 3, 16, 16)
    assert nobody.image_size.shape == (0, 2)


def test_one_pixel_wide_pictures_and_numpy_input():
    picture = np.full((1, 9, 3), 200, dtype=np.uint8)
    crop = crop_pictures(picture, torch.tensor([[0.0, 0.0, 9.0, 1.0]]), size=8)
    assert crop.image_size.tolist() == [[9.0, 1.0]]
    assert grey_levels(crop.pixels).max().item() == pytest.approx(100, abs=1e-2)  # between the row and black


@pytest.mark.parametrize("box", [[5.0, 5.0, 5.0, 9.0], [0.0, float("nan"), 4.0, 4.0], [9.0, 0.0, 1.0, 5.0]])
def test_unusable_boxes(box):
    with pytest.raises(InputError, match="box 1"):
        crop_pictures(random_picture(10, 10), torch.tensor([[0.0, 0.0, 5.0, 5.0], box]))
