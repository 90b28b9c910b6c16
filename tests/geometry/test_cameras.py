from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasthmr.geometry.cameras import (
    back_project,
    bbox_info,
    crop_camera_to_full,
    crop_camera_translation,
    default_focal,
    fov_to_focal,
    intrinsics,
    project,
    project_to_crop,
)


@given(st.floats(50.0, 5000.0), st.floats(0.1, 100.0), st.integers(0, 2**31 - 1))
def test_projection_undoes_back_projection(focal, depth, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(7, 2, generator=generator, dtype=torch.float64) * 1000
    K = intrinsics(torch.tensor(focal, dtype=torch.float64), torch.tensor([640.0, 480.0]))
    points = back_project(pixels, torch.full((7,), depth, dtype=torch.float64), K)
    assert torch.allclose(points[:, 2], torch.full((7,), depth, dtype=torch.float64))
    assert torch.allclose(project(points, K), pixels, atol=1e-6)


def test_the_full_camera_shows_what_the_crop_camera_shows():
    """Near the middle of the crop both cameras agree; they differ only in the ray of the crop's centre."""
    points = torch.randn(1, 20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 1e-3
    camera = torch.tensor([[0.9, 0.1, -0.2]], dtype=torch.float64)
    center = torch.tensor([[420.0, 300.0]], dtype=torch.float64)
    size = torch.tensor([200.0], dtype=torch.float64)
    image_size = torch.tensor([[800.0, 600.0]], dtype=torch.float64)
    focal = default_focal(image_size)
    transl = crop_camera_to_full(camera, center, size, image_size, focal)
    pixels = project(points + transl[:, None], intrinsics(focal, image_size))
    in_crop = (pixels - center[:, None]) / size[:, None, None]
    assert torch.allclose(in_crop, project_to_crop(points, camera), atol=2e-4)


def test_another_focal_moves_the_person_along_z_only():
    camera = torch.tensor([0.9, 0.1, -0.2])
    box = (torch.tensor([10.0, 20.0]), torch.tensor(120.0), torch.tensor([320.0, 240.0]))
    near = crop_camera_to_full(camera, *box, torch.tensor(500.0))
    far = crop_camera_to_full(camera, *box, torch.tensor(1000.0))
    assert torch.equal(near[:2], far[:2])
    assert far[2].item() == pytest.approx(2 * near[2].item())


def test_crop_camera_translation():
    transl = crop_camera_translation(torch.tensor([[0.5, 0.1, 0.2]]))
    assert torch.allclose(transl, torch.tensor([[0.1, 0.2, 2 * 5000 / 128]]))


def test_focal_lengths():
    assert default_focal(torch.tensor([640.0, 480.0])).item() == pytest.approx(5000 / 256 * 640)
    quarter_turn = fov_to_focal(torch.tensor(math.pi / 2), torch.tensor(480.0))
    assert quarter_turn.item() == pytest.approx(240.0, rel=1e-5)


def test_the_principal_point_is_the_origin_of_the_translation():
    camera = torch.tensor([0.9, 0.1, -0.2])
    center, size, focal = torch.tensor([10.0, 20.0]), torch.tensor(120.0), torch.tensor(500.0)
    image_size = torch.tensor([320.0, 240.0])
    usual = crop_camera_to_full(camera, center, size, image_size, focal)
    assert torch.equal(crop_camera_to_full(camera, center, size, image_size, focal, image_size / 2), usual)
    moved = torch.tensor([7.0, -3.0])
    shifted = crop_camera_to_full(camera, center + moved, size, image_size, focal, image_size / 2 + moved)
    assert torch.allclose(shifted, usual)


def test_place_of_a_crop_in_its_camera():
    center, size = torch.tensor([[420.0, 300.0], [0.0, 0.0]]), torch.tensor([200.0, 100.0])
    principal, focal = torch.tensor([[320.0, 240.0], [50.0, 25.0]]), torch.tensor([1000.0, 500.0])
    info = bbox_info(center, size, principal, focal)
    assert torch.allclose(info, torch.tensor([[0.1, 0.06, 0.2], [-0.1, -0.05, 0.2]]))
