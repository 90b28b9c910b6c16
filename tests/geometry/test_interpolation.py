"""Interpolation in time: scipy's slerp as the oracle, holding beyond the ends, signs of quaternions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from fasthmr.geometry.interpolation import (
    continuous_quaternions,
    mix_quaternions,
    mix_rotations,
    sample_rotations,
    sample_values,
    smooth_quaternions,
    smooth_values,
)

_TIMES = torch.tensor([0.5, 1.0, 2.0, 2.25], dtype=torch.float64)
_AT = torch.tensor([-1.0, 0.5, 0.6, 1.0, 1.7, 2.2, 2.25, 9.0], dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-7, 0.3, 2.5])
def test_rotations_follow_the_shortest_arc(scale: float) -> None:
    rng = np.random.default_rng(1)
    rotations = Rotation.from_rotvec(rng.normal(size=(4, 3)) * scale)
    expected = Slerp(_TIMES.numpy(), rotations)(_AT.clamp(0.5, 2.25).numpy()).as_matrix()
    R = torch.from_numpy(rotations.as_matrix())[:, None].repeat(1, 2, 1, 1)
    found = sample_rotations(R, _TIMES, _AT)
    assert found.shape == (8, 2, 3, 3)
    np.testing.assert_allclose(found[:, 1], expected, atol=1e-12)


def test_values_go_straight_and_hold_at_the_ends() -> None:
    values = torch.tensor([0.0, 1.0, 3.0, 4.0])[:, None]
    found = sample_values(values, _TIMES, _AT)[:, 0]
    torch.testing.assert_close(found, torch.tensor([0, 0, 0.2, 1, 2.4, 3.8, 4, 4]))


def test_one_frame_holds() -> None:
    R = torch.from_numpy(Rotation.from_rotvec([[0.1, 0.2, 3.0]]).as_matrix())
    torch.testing.assert_close(sample_rotations(R, _TIMES[:1], _AT), R.expand(8, 3, 3))
    torch.testing.assert_close(sample_values(torch.ones(1, 3), _TIMES[:1], _AT), torch.ones(8, 3))


def test_quaternions_keep_to_one_side() -> None:
    angle = torch.linspace(0, 12, 100)
    quat = torch.stack([(angle / 2).cos(), (angle / 2).sin(), 0 * angle, 0 * angle], dim=-1)[:, None]
    flipped = quat * torch.where(quat[..., :1] < 0, -1, 1)
    assert (flipped[1:] * flipped[:-1]).sum(-1).min() < 0
    torch.testing.assert_close(continuous_quaternions(flipped), quat)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 1.3])
def test_a_share_of_a_turn(share: float) -> None:
    rng = np.random.default_rng(2)
    start, turn = Rotation.from_rotvec(rng.normal(size=(5, 3))), rng.uniform(-1, 1, size=(5, 3))
    end = Rotation.from_rotvec(turn) * start
    expected = (Rotation.from_rotvec(share * turn) * start).as_matrix()
    a, b = torch.from_numpy(start.as_matrix()), torch.from_numpy(end.as_matrix())
    np.testing.assert_allclose(mix_rotations(a, b, share), expected, atol=1e-12)
    shares = torch.full((5,), share)
    np.testing.assert_allclose(mix_rotations(a, b, shares), expected, atol=1e-7)


def test_smoothing_keeps_constants_and_lines_and_takes_noise_away() -> None:
    line = torch.linspace(0, 5, 50)[:, None] * torch.tensor([1.0, -2.0]) + 3
    smooth = smooth_values(line, 2.0)
    torch.testing.assert_close(smooth[8:-8], line[8:-8])
    torch.testing.assert_close(smooth_values(torch.full((4, 2), 7.0), 5.0), torch.full((4, 2), 7.0))
    noise = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    assert smooth_values(noise, 3.0).std() < 0.4


def test_smooth_quaternions_mind_no_signs() -> None:
    rng = np.random.default_rng(3)
    quat = torch.from_numpy(Rotation.from_rotvec(np.linspace(0, 1, 30)[:, None] * [0.2, 1.0, 0.3]).as_quat())
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=(30, 1)))
    one, other = smooth_quaternions(quat, 1.5), smooth_quaternions(quat * signs, 1.5)
    torch.testing.assert_close((one * other).sum(-1).abs(), torch.ones(30, dtype=torch.float64))
    torch.testing.assert_close((one[8:-8] * quat[8:-8]).sum(-1), torch.ones(14, dtype=torch.float64))


def test_mixed_quaternions_lie_between() -> None:
    a, b = (Rotation.from_rotvec([0.0, angle, 0.0]) for angle in (0.1, 0.5))
    quats = [torch.from_numpy(part.as_quat())[None] for part in (a, b)]
    half = mix_quaternions(quats[0], -quats[1], torch.tensor([[0.5]], dtype=torch.float64))
    np.testing.assert_allclose(Rotation.from_quat(half[0].numpy()).as_rotvec(), [0, 0.3, 0], atol=1e-12)
