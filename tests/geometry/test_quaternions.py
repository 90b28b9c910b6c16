from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from fasthmr.geometry.quaternions import heading_turn


def wxyz(rotation: Rotation) -> torch.Tensor:
    return torch.from_numpy(rotation.as_quat()[..., [3, 0, 1, 2]])


def test_heading_turn_is_found_and_nearest() -> None:
    rng = np.random.default_rng(0)
    start = Rotation.from_rotvec(rng.normal(size=(6, 3)))
    angles = rng.uniform(-3, 3, size=6)
    turn = Rotation.from_euler("y", angles[:, None])
    found = heading_turn(wxyz(turn * start), wxyz(start)).numpy()
    np.testing.assert_allclose(
        Rotation.from_quat(found[:, [1, 2, 3, 0]]).as_rotvec()[:, 1], angles, atol=1e-9
    )

    to = Rotation.from_rotvec(rng.normal(size=3))
    found = heading_turn(wxyz(to), wxyz(start)).numpy()
    best = (to.inv() * Rotation.from_quat(found[:, [1, 2, 3, 0]]) * start).magnitude()
    for angle in np.linspace(-3, 3, 50):
        assert (best <= (to.inv() * Rotation.from_euler("y", [[angle]]) * start).magnitude() + 1e-9).all()


def test_no_heading_is_better_than_another() -> None:
    over = Rotation.from_rotvec([np.pi, 0, 0])
    found = heading_turn(wxyz(over), wxyz(Rotation.identity()))
    assert torch.equal(found, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
