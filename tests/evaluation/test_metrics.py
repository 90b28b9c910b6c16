from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree

from fasthmr.evaluation.metrics import (
    acceleration_error,
    auc,
    bootstrap_interval,
    f_scores,
    keypoint_l2,
    mpjpe_mm,
    pa_mpjpe_mm,
    pck,
    pck_curve,
    pck_per_point,
    pve_mm,
    vertex_areas,
)
from fasthmr.geometry.rotations import axis_angle_to_rotmat


def cloud(seed: int, samples: int = 3, points: int = 14) -> torch.Tensor:
    return torch.randn(samples, points, 3, generator=torch.Generator().manual_seed(seed)).double()


@settings(deadline=None, max_examples=25)
@given(st.floats(0.1, 5), st.integers(0, 1000))
def test_pa_mpjpe_ignores_similarity_transforms(scale: float, seed: int):
    true = cloud(seed)
    turn = axis_angle_to_rotmat(cloud(seed + 1, 3, 1))
    moved = scale * true @ turn[:, 0].mT + cloud(seed + 2, 3, 1)
    assert pa_mpjpe_mm(moved, true).max() < 1e-6


def test_mpjpe_ignores_translation_and_counts_millimetres():
    true = cloud(0)
    moved = true + torch.tensor([3.0, 2.0, 1.0])
    assert mpjpe_mm(moved, true).max() < 1e-9
    moved[:, 5, 0] += 0.014
    torch.testing.assert_close(mpjpe_mm(moved, true), torch.full((3,), 1.0).double())


def test_pve_weights_vertices():
    true = torch.zeros(1, 2, 3)
    moved = torch.tensor([[[0.001, 0, 0], [0.003, 0, 0]]])
    torch.testing.assert_close(pve_mm(moved, true), torch.tensor([2.0]))
    torch.testing.assert_close(pve_mm(moved, true, torch.tensor([0.25, 0.75])), torch.tensor([2.5]))


def test_areas_of_a_square_with_one_split_corner():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    areas = vertex_areas(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    torch.testing.assert_close(areas, torch.tensor([1 / 3, 1 / 6, 1 / 3, 1 / 6]))


def test_pck_averages_over_points_that_have_samples():
    true = torch.zeros(2, 3, 2)
    found = torch.tensor([[[0.0, 5.0], [0, 11], [0, 0]], [[0, 9.9], [0, 9], [0, 0]]])
    valid = torch.tensor([[True, True, False], [True, False, False]])
    assert pck(found, true, valid, torch.tensor([100.0, 100.0]), 0.1) == pytest.approx(50.0)


def test_bootstrap_interval_holds_the_mean():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 5
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high and high - low < 0.3
    assert bootstrap_interval(values) == (low, high)


def test_root_may_be_the_middle_of_joints_and_some_joints_may_count():
    true = torch.zeros(1, 4, 3)
    moved = torch.tensor([[[0.01, 0, 0], [0.03, 0, 0], [0.02, 0.004, 0], [9.0, 0, 0]]])
    error = mpjpe_mm(moved, true, root=(0, 1), joints=(2,))
    torch.testing.assert_close(error, torch.tensor([4.0]), atol=1e-4, rtol=0)
    assert mpjpe_mm(moved, true, root=None, joints=(0,)).item() == pytest.approx(10.0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_pa_mpjpe_agrees_with_scipy(mirrored: bool):
    true, found = cloud(3, 1, 21)[0].numpy(), cloud(4, 1, 21)[0].numpy()
    if mirrored:
        found = true * [-1, 1, 1] + 0.01 * found
    a, b = found - found.mean(0), true - true.mean(0)
    rotation, scale = orthogonal_procrustes(a / (a**2).sum() ** 0.5, b)
    aligned = a / (a**2).sum() ** 0.5 @ rotation * scale
    expected = 1000 * ((aligned - b) ** 2).sum(1) ** 0.5
    ours = pa_mpjpe_mm(torch.from_numpy(found)[None], torch.from_numpy(true)[None], reflection=True)
    assert ours.item() == pytest.approx(expected.mean(), rel=1e-9)
    if mirrored:
        assert pa_mpjpe_mm(torch.from_numpy(found)[None], torch.from_numpy(true)[None]).item() > 10 * ours


def test_acceleration_error_by_hand():
    frames = torch.arange(5.0)
    true = torch.zeros(5, 2, 3)
    moved = true.clone()
    moved[:, 0, 0] = 0.001 * frames**2  # second difference 2 mm
    torch.testing.assert_close(acceleration_error(moved, true), torch.full((3,), 1.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        acceleration_error(moved, true, fps=30.0), torch.full((3,), 0.9), atol=1e-4, rtol=0
    )
    moved[:, :, 1] += 3 * frames[:, None]  # constant speed does not count
    torch.testing.assert_close(acceleration_error(moved, true), torch.full((3,), 1.0), atol=1e-2, rtol=0)


def test_f_scores_agree_with_a_tree_search():
    true = 0.1 * cloud(5, 2, 1500)
    found = true[:, :1200] + 0.004 * cloud(6, 2, 1200)
    ours = f_scores(found, true)
    for sample in range(2):
        a, b = found[sample].numpy(), true[sample].numpy()
        for column, limit in enumerate((0.005, 0.015)):
            precision = (cKDTree(b).query(a)[0] < limit).mean()
            recall = (cKDTree(a).query(b)[0] < limit).mean()
            expected = 2 * precision * recall / (precision + recall)
            assert ours[sample, column].item() == pytest.approx(expected, abs=1e-12)


def test_f_score_of_equal_and_of_far_points():
    points = cloud(7, 1, 10)
    assert f_scores(points, points).tolist() == [[1.0, 1.0]]
    assert f_scores(points + 100, points).tolist() == [[0.0, 0.0]]
    assert f_scores(points[:0], points[:0]).shape == (0, 2)


def test_pck_curve_counts_the_limit_itself():
    thresholds = torch.tensor([0.0, 1.0, 2.0])
    curve = pck_curve(torch.tensor([[0.5, 1.0], [1.5, 9.0]]), thresholds)
    torch.testing.assert_close(curve, torch.tensor([0.0, 0.5, 0.75]))
    assert auc(curve, thresholds) == pytest.approx((0.25 + 0.625) / 2)


def test_pck_per_point_marks_points_without_samples():
    true = torch.zeros(2, 2, 2)
    found = torch.tensor([[[0.0, 1.0], [0, 0]], [[0, 3.0], [0, 0]]])
    valid = torch.tensor([[True, False], [True, False]])
    shares = pck_per_point(found, true, valid, torch.tensor([20.0, 20.0]), 0.1)
    assert shares.tolist() == [0.5, -1.0]


def test_keypoint_l2_weighs_by_confidence():
    error = keypoint_l2(
        torch.tensor([[[3.0, 4.0], [1, 0]]]), torch.zeros(1, 2, 2), torch.tensor([[0.5, 0.0]])
    )
    assert error.item() == pytest.approx(25 * 0.5 / 2)


def test_bootstrap_in_pieces_is_the_same():
    values = torch.randn(3000, generator=torch.Generator().manual_seed(1))
    picks = torch.randint(3000, (2000, 3000), generator=torch.Generator().manual_seed(0))
    low, high = torch.quantile(values[picks].mean(1), torch.tensor([0.025, 0.975])).tolist()
    assert bootstrap_interval(values) == pytest.approx((low, high), abs=1e-7)
