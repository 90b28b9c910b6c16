from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasthmr.geometry.alignment import similarity_align, similarity_transform
from fasthmr.geometry.rotations import axis_angle_to_rotmat


@given(st.integers(0, 2**31 - 1), st.floats(0.01, 100.0))
def test_a_similarity_is_found_exactly(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(3, 14, 3, generator=generator, dtype=torch.float64)
    rotation = axis_angle_to_rotmat(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    moved = scale * points @ rotation.mT + torch.randn(3, 1, 3, generator=generator, dtype=torch.float64)
    assert torch.allclose(similarity_align(points, moved), moved, atol=1e-9 * max(scale, 1.0))
    found_scale, found_rotation, _ = similarity_transform(points, moved)
    assert torch.allclose(found_scale, torch.full((3,), scale, dtype=torch.float64))
    assert torch.allclose(found_rotation, rotation, atol=1e-9)


def test_a_mirror_image_is_not_turned_inside_out():
    points = torch.randn(14, 3, generator=torch.Generator().manual_seed(0))
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    _, rotation, _ = similarity_transform(points, mirrored)
    assert torch.linalg.det(rotation).item() == pytest.approx(1.0, abs=1e-5)
    assert (similarity_align(points, mirrored) - mirrored).norm(dim=-1).mean() > 0.1


def test_a_mirror_image_is_found_where_reflection_is_allowed():
    points = torch.randn(14, 3, generator=torch.Generator().manual_seed(0))
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    assert (similarity_align(points, mirrored, reflection=True) - mirrored).abs().max() < 1e-5


def test_coinciding_points_stay_finite():
    aligned = similarity_align(
        torch.ones(5, 3), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    )
    assert torch.isfinite(aligned).all()
