from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasthmr.errors import InputError
from fasthmr.geometry.pose_crops import (
    crop_pose,
    fit_aspect,
    grow_to_aspect,
    invert_affine,
    transform_points,
    warp,
    warp_matrix,
)


def random_picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed)).byte()


def test_boxes_grow_to_the_aspect():
    boxes = torch.tensor([[0.0, 0.0, 30.0, 20.0], [10.0, 10.0, 20.0, 90.0]])
    center, size = grow_to_aspect(boxes, (256, 192))
    assert center.tolist() == [[15.0, 10.0], [15.0, 50.0]]
    assert size.tolist() == [[37.5, 50.0], [75.0, 100.0]]
    assert fit_aspect(torch.tensor([3.0, 4.0]), (256, 192)).tolist() == [3.0, 4.0]


def test_outermost_pixel_centres_lie_on_the_box():
    center, size = torch.tensor([[50.0, 40.0]]), torch.tensor([[30.0, 40.0]])
    matrix = warp_matrix(center, size, (256, 192))
    corners = transform_points(matrix, torch.tensor([[[35.0, 20.0], [65.0, 60.0]]]))
    assert torch.allclose(corners, torch.tensor([[[0.0, 0.0], [191.0, 255.0]]]), atol=1e-4)


def test_rotation_turns_from_x_toward_y():
    center, size = torch.tensor([[50.0, 40.0]]), torch.tensor([[31.0, 41.0]])
    matrix = warp_matrix(center, size, (42, 32), torch.tensor([90.0]))
    right_of_center = transform_points(matrix, torch.tensor([[[60.0, 40.0]]]))
    assert torch.allclose(right_of_center, torch.tensor([[[15.5, 30.5]]]), atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.floats(-80, 80), st.floats(5, 400), st.floats(-50, 500))
def test_the_inverse_undoes_the_map(angle, width, x):
    center = torch.tensor([[x, 70.0]], dtype=torch.float64)
    size = torch.tensor([[width, 1.5 * width]], dtype=torch.float64)
    matrix = warp_matrix(center, size, (256, 192), torch.tensor([angle], dtype=torch.float64))
    points = torch.tensor([[[3.0, 5.0], [x, 77.0]]], dtype=torch.float64)
    there = transform_points(matrix, points)
    assert torch.allclose(transform_points(invert_affine(matrix), there), points, atol=1e-8)


def test_identity_and_half_steps():
    picture = random_picture(12, 9)
    same = warp(picture, torch.tensor([[1.0, 0, 0], [0, 1, 0]]), (12, 9))
    assert torch.equal(same, picture.float())
    between = warp(picture, torch.tensor([[1.0, 0, -0.5], [0, 1, 0]]), (12, 9))
    assert torch.allclose(between[:, :-1], (picture[:, :-1].float() + picture[:, 1:]) / 2)
    assert torch.allclose(between[:, -1], picture[:, -1].float() / 2)  # black outside


def test_a_crop_follows_its_matrix():
    picture = random_picture(80, 60, seed=1)
    crop = crop_pose(picture, torch.tensor([[5.0, 10.0, 40.0, 70.0], [-20.0, 30.0, 90.0, 60.0]]), (64, 48))
    assert crop.pixels.shape == (2, 3, 64, 48)
    assert torch.allclose(crop.size[:, 0] / crop.size[:, 1], torch.tensor(0.75))
    again = crop_pose(picture.numpy(), torch.tensor([[5.0, 10.0, 40.0, 70.0]]), (64, 48))
    assert torch.equal(again.pixels, crop.pixels[:1])


def test_nobody_and_unusable_boxes():
    picture = np.zeros((10, 10, 3), dtype=np.uint8)
    assert crop_pose(picture, torch.zeros(0, 4)).pixels.shape == (0, 3, 256, 192)
    with pytest.raises(InputError, match="box 0"):
        crop_pose(picture, torch.tensor([[5.0, 5.0, 5.0, 9.0]]))
