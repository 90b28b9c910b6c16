from __future__ import annotations

import numpy as np
import pytest
import torch

from fasthmr.data.metro_example import (
    METRO_24_FLIP,
    MetroAugmentation,
    MetroLabels,
    draw_metro_augmentation,
    metro_example,
)
from fasthmr.errors import InputError
from fasthmr.geometry.rotations import axis_angle_to_rotmat


def labels(places: torch.Tensor) -> MetroLabels:
    generator = torch.Generator().manual_seed(0)
    return MetroLabels(
        joints_2d=torch.cat([places, torch.ones(24, 1)], -1),
        joints_3d=torch.cat([torch.randn(24, 3, generator=generator), torch.ones(24, 1)], -1),
        pose=0.5 * torch.randn(72, generator=generator),
    )


def spotted(x: int, y: int) -> np.ndarray:
    picture = np.zeros((120, 160, 3), dtype=np.uint8)
    picture[y - 3 : y + 4, x - 3 : x + 4] = 200
    return picture


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turn", [0.0, 35.0, -120.0])
@pytest.mark.parametrize("scale", [1.0, 1.25])
def test_joints_stay_on_what_they_mark(turn, mirrored, scale):
    given = labels(torch.tensor([[90.0, 50.0]]).expand(24, -1))
    change = MetroAugmentation(rotation_deg=turn, mirrored=mirrored, scale=scale)
    example = metro_example(spotted(90, 50), (80.0, 60.0), 100.0, given, change)
    bright = (example.pixels[0] > 0.5 * example.pixels[0].max()).nonzero().float().mean(0).flip(0)
    marked = (example.labels.joints_2d[0, :2] + 1) * 112
    # The square is cut at whole pixels (2.2 of the crop), joints are rounded to whole ones of the crop.
    assert (bright - marked).norm() < 5
    assert torch.equal(example.labels.joints_2d[:, 2], torch.ones(24))


def test_points_and_pose_turn_with_the_picture():
    given = labels(torch.full((24, 2), 60.0))
    turned = metro_example(spotted(60, 60), (60.0, 60.0), 90.0, given, MetroAugmentation(rotation_deg=90.0))
    # Counter-clockwise as seen: what pointed right (x) points up (-y).
    expected = torch.stack([given.joints_3d[:, 1], -given.joints_3d[:, 0], given.joints_3d[:, 2]], dim=-1)
    torch.testing.assert_close(turned.labels.joints_3d[:, :3], expected)
    before, after = (axis_angle_to_rotmat(pose[:3]) for pose in (given.pose, turned.labels.pose))
    torch.testing.assert_close(after[0], before[1], atol=1e-5, rtol=1e-5)
    assert torch.equal(turned.labels.pose[3:], given.pose[3:])


def test_mirroring_twice_changes_nothing():
    assert [METRO_24_FLIP[i] for i in METRO_24_FLIP] == list(range(24))
    given = labels(torch.full((24, 2), 60.0))
    mirrored = metro_example(spotted(60, 60), (60.0, 60.0), 90.0, given, MetroAugmentation(mirrored=True))
    assert torch.equal(mirrored.labels.joints_3d[list(METRO_24_FLIP), 0], -given.joints_3d[:, 0])


def test_drawn_changes_stay_in_range():
    rng = np.random.default_rng(0)
    bodies = [draw_metro_augmentation(rng) for _ in range(300)]
    hands = [draw_metro_augmentation(rng, hand=True) for _ in range(300)]
    assert max(abs(x.rotation_deg) for x in bodies) <= 60 < max(abs(x.rotation_deg) for x in hands) <= 180
    assert any(x.mirrored for x in bodies) and not any(x.mirrored for x in hands)
    assert 0.5 < np.mean([x.rotation_deg == 0 for x in bodies]) < 0.7
    assert all(0.75 <= x.scale <= 1.25 and 0.6 <= min(x.color) <= max(x.color) <= 1.4 for x in bodies)


@pytest.mark.parametrize("side", [0.0, float("nan")])
def test_empty_squares_are_refused(side):
    with pytest.raises(InputError, match="at least one pixel"):
        metro_example(spotted(60, 60), (60.0, 60.0), side, labels(torch.zeros(24, 2)), MetroAugmentation())
