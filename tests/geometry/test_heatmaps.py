from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasthmr.geometry.heatmaps import (
    COCO_FLIP_PAIRS,
    blur_heatmaps,
    cells_to_picture,
    decode_heatmaps,
    flip_back,
    heatmap_targets,
    peaks,
    swap_index,
)

IMAGE, GRID = (256, 192), (64, 48)


@settings(max_examples=10, deadline=None)
@given(st.floats(20, 170), st.floats(20, 235))
def test_a_target_is_read_back(x, y):
    joints = torch.tensor([[[x, y]]])
    maps, weight = heatmap_targets(joints, torch.ones(1, 1), IMAGE, GRID)
    assert weight.item() == 1
    for method, error in (("dark_udp", 0.05), ("dark", 0.05), ("shift", 0.5), ("argmax", 0.75)):
        cells, scores = decode_heatmaps(maps, method)
        expected = joints * torch.tensor([47 / 191, 63 / 255])
        assert torch.allclose(cells, expected, atol=error), method
        assert 0.8 < scores.item() <= 1


@pytest.mark.parametrize(("kind", "cells"), [("udp", 81), ("msra", 100), ("msra_unbiased", 835)])
def test_weights_of_targets(kind, cells):
    joints = torch.tensor([[10.0, 10.0], [-40.0, 5.0], [100.0, 400.0], [100.0, 100.0]])
    visible = torch.tensor([1.0, 1.0, 1.0, 0.0])
    maps, weight = heatmap_targets(joints, visible, IMAGE, GRID, kind=kind)
    assert weight.tolist() == [1, 0, 0, 0]
    assert maps[1:].abs().max() == 0
    assert maps.shape == (4, 64, 48)
    assert (maps[0] > 0).sum() == cells


def test_conventions_of_targets():
    joints, visible = torch.tensor([[[101.0, 67.0]]]), torch.ones(1, 1)
    msra, _ = heatmap_targets(joints, visible, IMAGE, GRID, kind="msra")
    assert peaks(msra)[0].tolist() == [[[25.0, 17.0]]]
    assert msra.max() == 1
    exact, _ = heatmap_targets(joints, visible, IMAGE, GRID, kind="msra_unbiased")
    assert exact[0, 0, 17, 25] == pytest.approx(torch.tensor(-2 * 0.25**2 / 8).exp().item())


def test_small_and_flat_maps_stay_where_they_are():
    for size in ((1, 1), (3, 4), (5, 5)):
        maps = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        for method in ("argmax", "shift", "dark", "dark_udp"):
            cells, _ = decode_heatmaps(maps, method)
            assert cells.isfinite().all()
    flat = torch.full((1, 2, 16, 12), 5e-4)  # below the floor of the logarithm
    assert torch.equal(decode_heatmaps(flat, "dark_udp")[0], torch.zeros(1, 2, 2))
    empty, scores = decode_heatmaps(torch.zeros(1, 2, 16, 12), "dark_udp")
    assert torch.equal(empty, torch.full((1, 2, 2), -1.0)) and scores.abs().max() == 0


def test_a_batch_equals_its_samples():
    maps = torch.randn(4, 5, 16, 12, generator=torch.Generator().manual_seed(1))
    maps[2, 0] = -1
    for method in ("argmax", "shift", "dark", "dark_udp"):
        together = decode_heatmaps(maps, method, 7)[0]
        alone = torch.cat([decode_heatmaps(sample[None], method, 7)[0] for sample in maps])
        assert torch.allclose(together, alone, atol=1e-3), method
    assert decode_heatmaps(maps[:0])[0].shape == (0, 5, 2)


def test_half_precision_is_read_in_single():
    joints = torch.tensor([[[60.3, 80.7]]])
    maps, _ = heatmap_targets(joints, torch.ones(1, 1), IMAGE, GRID)
    exact, _ = decode_heatmaps(maps)
    rough, scores = decode_heatmaps(maps.bfloat16())
    assert rough.dtype == scores.dtype == torch.float32
    assert torch.allclose(rough, exact, atol=0.05)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 9, 11, 17])
@pytest.mark.parametrize("shape", [(20, 15), (4, 3)])
def test_blur_is_that_of_opencv(kernel, shape):
    import cv2

    maps = torch.rand(1, 2, *shape, generator=torch.Generator().manual_seed(2))
    for border in ("mirror", "zero"):
        blurred = blur_heatmaps(maps, kernel, border)
        source = maps[0, 1].numpy()
        half = kernel // 2
        if border == "zero":
            source = cv2.copyMakeBorder(source, half, half, half, half, cv2.BORDER_CONSTANT, value=0)
        expected = torch.from_numpy(cv2.GaussianBlur(source, (kernel, kernel), 0))
        if border == "zero":
            expected = expected[half : half + shape[0], half : half + shape[1]]
        assert torch.allclose(blurred[0, 1], expected, atol=1e-6)


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="must be odd, got 10"):
        blur_heatmaps(torch.zeros(1, 1, 8, 8), 10)


def test_corners_of_the_map_are_corners_of_the_box():
    center, size = torch.tensor([[100.0, 80.0]]), torch.tensor([[60.0, 80.0]])
    corners = torch.tensor([[[0.0, 0.0], [47.0, 63.0]]])
    assert cells_to_picture(corners, center, size, GRID).tolist() == [[[70.0, 40.0], [130.0, 120.0]]]
    edges = torch.tensor([[[0.0, 0.0], [48.0, 64.0]]])
    assert cells_to_picture(edges, center, size, GRID, udp=False).tolist() == [[[70.0, 40.0], [130.0, 120.0]]]


def test_flipping_twice_changes_nothing():
    maps = torch.rand(2, 17, 8, 6, generator=torch.Generator().manual_seed(3))
    assert torch.equal(flip_back(flip_back(maps)), maps)
    once = flip_back(maps)
    assert torch.equal(once[:, 5], maps[:, 6].flip(-1)) and torch.equal(once[:, 0], maps[:, 0].flip(-1))
    shifted = flip_back(maps, shift=True)
    assert torch.equal(shifted[..., 1:], once[..., :-1]) and torch.equal(shifted[..., 0], once[..., 0])
    assert sorted(swap_index(COCO_FLIP_PAIRS, 17)) == list(range(17))
