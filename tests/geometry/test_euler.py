"""Euler angles: scipy as the oracle, every order, quarter turns, continuity."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fasthmr.geometry.euler import continuous_euler, euler_to_rotmat, rotmat_to_euler

_ORDERS = ["".join(order) for order in permutations("xyz")]


@pytest.mark.parametrize("axes", _ORDERS)
def test_both_ways_agree_with_scipy(axes: str) -> None:
    rng = np.random.default_rng(0)
    angles = rng.uniform(-1, 1, (50, 3)) * [np.pi, np.pi / 2, np.pi]
    R = Rotation.from_euler(axes.upper(), angles).as_matrix()  # capital letters: about the turned axes
    np.testing.assert_allclose(euler_to_rotmat(torch.from_numpy(angles), axes), R, atol=1e-12)
    np.testing.assert_allclose(rotmat_to_euler(torch.from_numpy(R), axes), angles, atol=1e-9)


@pytest.mark.parametrize("axes", _ORDERS)
@pytest.mark.parametrize("middle", [np.pi / 2, -np.pi / 2, np.pi / 2 - 1e-9])
def test_product_is_right_at_quarter_turns(axes: str, middle: float) -> None:
    angles = torch.tensor([[0.4, middle, -2.0], [3.0, middle, 1.0]], dtype=torch.float64)
    R = euler_to_rotmat(angles, axes)
    again = euler_to_rotmat(rotmat_to_euler(R, axes), axes)
    torch.testing.assert_close(again, R, atol=1e-12, rtol=0)


def test_any_number_of_turns() -> None:
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = Rotation.from_euler("XY", [0.1, 0.2]) * Rotation.from_euler("XZ", [0.3, 0.4])
    np.testing.assert_allclose(euler_to_rotmat(angles, "xyxz"), expected.as_matrix(), atol=1e-12)
    torch.testing.assert_close(euler_to_rotmat(torch.zeros(5, 0), ""), torch.eye(3).expand(5, 3, 3))


def test_continuous_angles_do_not_jump() -> None:
    time = torch.linspace(0, 1, 200, dtype=torch.float64)
    # The middle angle goes through a quarter turn and back, the last one round several times.
    smooth = torch.stack([2 * time, 2.6 * (3 * time).sin(), 14 * time], dim=-1)[:, None].repeat(1, 2, 1)
    R = euler_to_rotmat(smooth, "zxy")
    raw = rotmat_to_euler(R, "zxy")
    angles = continuous_euler(raw)
    torch.testing.assert_close(euler_to_rotmat(angles, "zxy"), R, atol=1e-12, rtol=0)
    assert raw.diff(dim=0).abs().max() > 3
    torch.testing.assert_close(angles, smooth, atol=1e-9, rtol=0)
    assert continuous_euler(raw[:0]).shape == (0, 2, 3)
