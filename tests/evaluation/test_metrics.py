from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasthmr.evaluation.metrics import bootstrap_interval, mpjpe_mm, pa_mpjpe_mm, pck, pve_mm, vertex_areas
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
