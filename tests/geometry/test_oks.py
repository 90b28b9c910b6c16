from __future__ import annotations

import math

import pytest
import torch

from fasthmr.geometry.oks import COCO_SIGMAS, oks, oks_nms


def pose(seed: int = 0) -> torch.Tensor:
    return 100 * torch.rand(17, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equal_poses_are_one_and_far_poses_zero():
    assert oks(pose(), pose(), torch.tensor(900.0)).item() == 1.0
    assert oks(pose(), pose() + 1e4, torch.tensor(900.0)).item() == pytest.approx(0)


def test_one_moved_point_by_the_formula():
    moved = pose()
    moved[9] += torch.tensor([3.0, 4.0])
    area = 2000.0
    expected = (16 + math.exp(-25 / (2 * area * (2 * COCO_SIGMAS[9]) ** 2))) / 17
    assert oks(moved, pose(), torch.tensor(area)).item() == pytest.approx(expected, rel=1e-12)


def test_hidden_points_do_not_count():
    moved = pose()
    moved[:5] += 1e4
    visible = torch.arange(17) >= 5
    assert oks(moved, pose(), torch.tensor(900.0), visible).item() == 1.0
    assert oks(moved, pose(), torch.tensor(900.0), torch.zeros(17, dtype=torch.bool)).item() == 0.0


def test_nms_keeps_the_best_of_doubles_and_all_who_differ():
    points = torch.stack([pose(0), pose(0) + 0.2, pose(1), pose(0) + 0.1])
    scores = torch.tensor([0.5, 0.9, 0.1, 0.7])
    assert oks_nms(points, torch.full((4,), 5000.0), scores).tolist() == [1, 2]
    assert oks_nms(points, torch.full((4,), 5000.0), scores, threshold=1.0).tolist() == [1, 3, 0, 2]
    assert oks_nms(points[:0], scores[:0], scores[:0]).tolist() == []


def test_other_point_sets_bring_their_sigmas():
    hand = torch.zeros(21, 2)
    assert oks(hand, hand + 1, torch.tensor(1.0), sigmas=[0.5] * 21).item() == pytest.approx(math.exp(-1))
