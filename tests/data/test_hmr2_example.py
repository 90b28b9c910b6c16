from __future__ import annotations

import numpy as np
import pytest
import torch

from fasthmr.body.skeletons import HMR2_44_FLIP, HMR2_44_NAMES
from fasthmr.data.extreme_crop import PART_POINTS, extreme_crop, part_odds, part_square
from fasthmr.data.hmr2_example import (
    Augmentation,
    AugmentationConfig,
    PersonLabels,
    draw_augmentation,
    draw_example,
    make_example,
    mirror_labels,
)
from fasthmr.errors import InputError
from fasthmr.geometry.crops import IMAGENET_MEAN, IMAGENET_STD, crop_pictures
from fasthmr.geometry.rotations import axis_angle_to_rotmat


def labels(seed: int = 0) -> PersonLabels:
    generator = torch.Generator().manual_seed(seed)
    points = 40 + 80 * torch.rand(44, 2, generator=generator)
    return PersonLabels(
        keypoints_2d=torch.cat([points, torch.ones(44, 1)], dim=1),
        keypoints_3d=torch.cat([torch.randn(44, 3, generator=generator), torch.ones(44, 1)], dim=1),
        global_orient=torch.tensor([2.0, 0.4, -0.3]),
        body_pose=0.3 * torch.randn(69, generator=generator),
        betas=torch.randn(10, generator=generator),
    )


def picture(height: int = 150, width: int = 170) -> np.ndarray:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x, y, np.full_like(x, 100)], axis=-1).astype(np.uint8)


def grey(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return 255 * (pixels * std[:, None, None] + mean[:, None, None])


def test_without_augmentation_it_is_the_crop_of_inference():
    example = make_example(picture(), (80.0, 70.0), 100.0, labels(), Augmentation(), 64)
    crop = crop_pictures(picture(), torch.tensor([[30.0, 20.0, 130.0, 120.0]]), 64, (1, 1))
    assert (example.pixels - crop.pixels[0]).abs().max() < 1.5 / 255 / min(IMAGENET_STD)
    points = (labels().keypoints_2d[:, :2] - torch.tensor([80.0, 70.0])) / 100
    torch.testing.assert_close(example.labels.keypoints_2d[:, :2], points)
    torch.testing.assert_close(example.labels.global_orient, labels().global_orient)


@pytest.mark.parametrize("mirrored", [False, True])
def test_points_stay_on_what_they_mark(mirrored: bool):
    """The test picture holds its own coordinates, so the crop says where each of its pixels came from."""
    chosen = Augmentation(
        scale=1.2, rotation_deg=25.0, mirrored=mirrored, shift=(0.05, -0.03), color=(1.0, 1.0, 1.5)
    )
    example = make_example(picture(), (85.0, 75.0), 90.0, labels(), chosen, 128)
    colors = grey(example.pixels)
    assert colors[2].max().item() == pytest.approx(150, abs=1)  # gain of blue
    before = labels().keypoints_2d[list(HMR2_44_FLIP)] if mirrored else labels().keypoints_2d
    found = 0
    for point, source in zip(example.labels.keypoints_2d, before, strict=True):
        u, v = ((point[:2] + 0.5) * 128).round().int().tolist()
        if 1 <= u < 127 and 1 <= v < 127:
            assert (colors[:2, v, u] - source[:2]).abs().max() < 3
            found += 1
    assert found > 20


def test_3d_labels_turn_with_the_picture():
    """Points under an orthographic camera and their 2D labels move alike."""
    start = labels()
    joints = start.keypoints_3d[:, :3]
    flat = torch.cat([85 + 20 * joints[:, :1], 75 + 20 * joints[:, 1:2], torch.ones(44, 1)], dim=1)
    given = PersonLabels(
        keypoints_2d=flat,
        keypoints_3d=start.keypoints_3d,
        global_orient=start.global_orient,
        body_pose=start.body_pose,
        betas=start.betas,
    )
    chosen = Augmentation(rotation_deg=-40.0, mirrored=True)
    # The middle of the mirrored picture is at (width - 1) / 2, so the person is put there.
    example = make_example(picture(150, 171), (85.0, 75.0), 100.0, given, chosen, 100)
    turned = example.labels.keypoints_3d
    torch.testing.assert_close(
        example.labels.keypoints_2d[:, :2], 20 * turned[:, :2] / 100, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(turned[:, 2], joints[list(HMR2_44_FLIP), 2])
    angle = torch.tensor([0.0, 0.0, np.deg2rad(40.0)]).float()
    orient = axis_angle_to_rotmat(angle) @ axis_angle_to_rotmat(
        start.global_orient * torch.tensor([1.0, -1, -1])
    )
    torch.testing.assert_close(axis_angle_to_rotmat(example.labels.global_orient), orient, atol=1e-5, rtol=0)


def test_mirroring_twice_changes_nothing():
    twice = mirror_labels(mirror_labels(labels(), 170), 170)
    for name in ("keypoints_2d", "keypoints_3d", "global_orient", "body_pose", "betas"):
        torch.testing.assert_close(getattr(twice, name), getattr(labels(), name), atol=1e-4, rtol=1e-5)


def test_draws_have_the_published_strengths_and_follow_the_seed():
    rng = np.random.default_rng(0)
    drawn = [draw_augmentation(AugmentationConfig(), rng) for _ in range(4000)]
    assert np.mean([d.mirrored for d in drawn]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([d.rotation_deg != 0 for d in drawn]) == pytest.approx(0.6, abs=0.03)
    assert max(abs(d.rotation_deg) for d in drawn) == 60.0
    assert {round(f(d.scale for d in drawn), 6) for f in (min, max)} == {0.7, 1.3}
    assert {round(f(d.shift[1] for d in drawn), 6) for f in (min, max)} == {-0.02, 0.02}
    assert 0.8 <= min(min(d.color) for d in drawn) < 0.81 and 1.19 < max(max(d.color) for d in drawn) <= 1.2
    again = np.random.default_rng(0)
    assert draw_augmentation(AugmentationConfig(), again) == drawn[0]


def test_random_examples_repeat_with_the_seed():
    def draw() -> torch.Tensor:
        rng = np.random.default_rng(3)
        config = AugmentationConfig(extreme_crop=1.0)
        return draw_example(picture(), (80.0, 70.0), 100.0, labels(), config, rng, 32).pixels

    assert torch.equal(draw(), draw())


@pytest.mark.parametrize("side", [0.0, float("nan"), float("inf")])
def test_empty_squares_are_refused(side: float):
    with pytest.raises(InputError, match="at least one pixel"):
        make_example(picture(), (80.0, 70.0), side, labels(), Augmentation(), 32)


def test_odds_follow_what_is_labelled():
    whole = labels().keypoints_2d
    assert sum(part_odds(whole).values()) == pytest.approx(1) and part_odds(whole)["hips"] == 0.2
    upper = whole.clone()
    for i, name in enumerate(HMR2_44_NAMES):
        if "knee" in name or "ankle" in name:
            upper[i, 2] = 0
    assert part_odds(upper) == dict.fromkeys(("shoulders", "head", "torso", "right_arm", "left_arm"), 0.2)
    upper[10, 2] = 1  # one knee: neither whole nor upper body
    assert part_odds(upper) == {}
    assert extreme_crop((1.0, 2.0), 30.0, upper, np.random.default_rng(0)) == ((1.0, 2.0), 30.0)


def test_square_of_an_arm_by_hand():
    points = torch.zeros(44, 3)
    points[2], points[4] = torch.tensor([10.0, 20.0, 1.0]), torch.tensor([30.0, 60.0, 1.0])
    points[5] = torch.tensor([500.0, 500.0, 1.0])  # the other arm
    center, side = part_square(points, "right_arm") or pytest.fail("no square")
    assert center == (20.0, 40.0)
    assert side == pytest.approx(40 * 1.2 * 1.1)
    assert part_square(points, "left_arm") is None  # one point
    points[6] = torch.tensor([501.0, 501.0, 1.0])
    assert part_square(points, "left_arm") is None  # under four pixels


def test_parts_hold_the_points_of_their_name():
    for part in ("right_arm", "left_arm", "right_leg", "left_leg"):
        side = part.split("_")[0]
        assert all(side in HMR2_44_NAMES[i] for i in PART_POINTS[part])
    assert not any("knee" in HMR2_44_NAMES[i] for i in PART_POINTS["hips"])
    mirrored = {HMR2_44_FLIP[i] for i in PART_POINTS["right_leg"]}
    assert mirrored == set(PART_POINTS["left_leg"])
