from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasthmr.geometry.rotations import (
    axis_angle_to_rotmat,
    geodesic_angle,
    quat_wxyz_to_rotmat,
    rot6d_to_rotmat,
    rotmat_to_axis_angle,
    rotmat_to_quat_wxyz,
    rotmat_to_rot6d,
)

SPECIAL_ANGLES = [0.0, 1e-12, 1e-7, 1e-3, 1.0, math.pi - 1e-3, math.pi - 1e-7, math.pi]

angles = st.one_of(st.sampled_from(SPECIAL_ANGLES), st.floats(0.0, math.pi))
directions = st.tuples(*[st.floats(-1.0, 1.0)] * 3).filter(lambda v: math.hypot(*v) > 1e-2)


def rotation_vector(angle: float, direction: tuple[float, float, float]) -> torch.Tensor:
    axis = torch.tensor(direction, dtype=torch.float64)
    return angle * axis / axis.norm()


def random_rotations(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return rot6d_to_rotmat(torch.randn(count, 6, generator=generator, dtype=torch.float64))


@given(angles, directions)
def test_axis_angle_round_trip(angle, direction):
    R = axis_angle_to_rotmat(rotation_vector(angle, direction))
    assert torch.allclose(R @ R.mT, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.linalg.det(R) == pytest.approx(1.0)
    again = axis_angle_to_rotmat(rotmat_to_axis_angle(R))
    assert torch.allclose(again, R, atol=5e-8)  # the released code shifts each coordinate by 1e-8
    assert geodesic_angle(torch.eye(3, dtype=torch.float64), R).item() == pytest.approx(angle, abs=5e-8)


@given(angles, directions)
def test_quaternion_round_trip(angle, direction):
    R = axis_angle_to_rotmat(rotation_vector(angle, direction))
    quat = rotmat_to_quat_wxyz(R)
    assert quat.norm().item() == pytest.approx(1.0)
    assert quat[0] >= 0
    assert torch.allclose(quat_wxyz_to_rotmat(quat), R, atol=1e-12)


@given(angles, directions, angles, directions)
def test_geodesic_angle_ignores_a_common_rotation(angle_a, direction_a, angle_b, direction_b):
    Ra = axis_angle_to_rotmat(rotation_vector(angle_a, direction_a))
    Rb = axis_angle_to_rotmat(rotation_vector(angle_b, direction_b))
    expected = geodesic_angle(torch.eye(3, dtype=torch.float64), Rb)
    assert geodesic_angle(Ra, Ra @ Rb).item() == pytest.approx(expected.item(), abs=1e-7)


@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_rot6d_round_trip(layout):
    R = random_rotations(50)
    assert torch.allclose(rot6d_to_rotmat(rotmat_to_rot6d(R, layout), layout), R, atol=1e-12)


def test_rot6d_layouts_differ_as_named():
    R = random_rotations(1)[0]
    assert torch.equal(rotmat_to_rot6d(R, "columns"), torch.cat([R[:, 0], R[:, 1]]))
    assert torch.equal(rotmat_to_rot6d(R, "rows"), torch.stack([R[:, 0], R[:, 1]], dim=1).flatten())


def test_rotations_compose():
    Ra, Rb = random_rotations(20, seed=1), random_rotations(20, seed=2)
    product = quat_wxyz_to_rotmat(rotmat_to_quat_wxyz(Ra @ Rb))
    assert torch.allclose(product, Ra @ Rb, atol=1e-12)
    x = torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64)
    turned = axis_angle_to_rotmat(x) @ torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.allclose(turned, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), atol=1e-7)


@pytest.mark.parametrize("angle", SPECIAL_ANGLES)
@pytest.mark.parametrize("convert", [rotmat_to_axis_angle, rotmat_to_quat_wxyz])
def test_gradients_are_finite(angle, convert):
    vector = rotation_vector(angle, (0.3, -0.5, 0.8)).requires_grad_()
    R = axis_angle_to_rotmat(vector)
    (convert(R).sum() + geodesic_angle(torch.eye(3, dtype=torch.float64), R)).backward()
    assert vector.grad is not None
    assert torch.isfinite(vector.grad).all()


def test_degenerate_rot6d_gives_finite_matrices():
    assert torch.isfinite(rot6d_to_rotmat(torch.zeros(2, 6))).all()


def test_empty_batches():
    assert axis_angle_to_rotmat(torch.zeros(0, 24, 3)).shape == (0, 24, 3, 3)
    assert rotmat_to_axis_angle(torch.zeros(0, 3, 3)).shape == (0, 3)
