"""Overlay and shading: occlusion, opacity, smooth edges, people outside the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fasthmr.geometry.palette import person_color
from fasthmr.render.overlay import overlay
from fasthmr.render.shading import shade, to_srgb
from fasthmr.types import Mesh

K = torch.tensor([[100.0, 0.0, 31.5], [0.0, 100.0, 23.5], [0.0, 0.0, 1.0]])


def _quad(x: float, y: float, z: float, half: float, color: tuple[float, float, float] | None = None) -> Mesh:
    """Square that faces the camera."""
    corners = torch.tensor([[-1.0, -1, 0], [-1, 1, 0], [1, 1, 0], [1, -1, 0]]) * half
    vertices = corners + torch.tensor([x, y, z])
    colors = None if color is None else torch.tensor(color).expand(4, 3).clone()
    return Mesh(vertices=vertices, faces=torch.tensor([[0, 1, 2], [0, 2, 3]]), vertex_colors=colors)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def test_no_mesh_gives_a_copy(picture: np.ndarray) -> None:
    result = overlay(picture, [], K)
    assert result is not picture
    np.testing.assert_array_equal(result, picture)


@pytest.mark.parametrize("mesh", [_quad(0, 0, -2, 0.1), _quad(9, 0, 2, 0.1), _quad(0, -9, 2, 0.1)])
def test_nothing_to_see_gives_a_copy(picture: np.ndarray, mesh: Mesh) -> None:
    np.testing.assert_array_equal(overlay(picture, [mesh], K), picture)


def test_input_is_not_changed(picture: np.ndarray) -> None:
    before = picture.copy()
    overlay(picture, [_quad(0, 0, 1, 0.1)], K)
    np.testing.assert_array_equal(picture, before)


def test_nearer_person_hides_the_other_whatever_the_order(picture: np.ndarray) -> None:
    red, green = (0.8, 0.05, 0.05), (0.05, 0.8, 0.05)
    near, far = _quad(0, 0, 1, 0.05, red), _quad(0, 0, 2, 0.3, green)
    one, two = overlay(picture, [near, far], K, alpha=1.0), overlay(picture, [far, near], K, alpha=1.0)
    np.testing.assert_array_equal(one, two)
    assert one[23, 31, 0] > one[23, 31, 1]
    assert one[12, 31, 1] > one[12, 31, 0]


@pytest.mark.parametrize("samples", [1, 2])
def test_r10_a_crowd_is_drawn_some_at_a_time(
    picture: np.ndarray, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    crowd = [_quad(*random.uniform([-0.4, -0.3, 1], [0.4, 0.3, 3]), 0.1) for _ in range(23)]
    whole = overlay(picture, crowd, K, samples=samples)
    for count in (22, 5, 1):
        monkeypatch.setattr("fasthmr.render.overlay._MESHES_AT_ONCE", count)
        np.testing.assert_array_equal(overlay(picture, crowd, K, samples=samples), whole)


def test_opacity_mixes_with_the_picture() -> None:
    black, white = np.zeros((48, 64, 3), np.uint8), np.full((48, 64, 3), 255, np.uint8)
    mesh = _quad(0, 0, 1, 0.1)
    difference = (
        overlay(white, [mesh], K, alpha=0.6)[23, 31].astype(int)
        - overlay(black, [mesh], K, alpha=0.6)[23, 31]
    )
    np.testing.assert_allclose(difference, 0.4 * 255, atol=1)


def test_edges_are_smooth_and_in_place() -> None:
    # The left edge projects to u = 21.5 exactly, between pixel 21 and 22; then half a pixel to the left.
    black = np.zeros((48, 64, 3), np.uint8)
    sharp = overlay(black, [_quad(0, 0, 1, 0.1)], K, alpha=1.0)[23, :, 0]
    assert sharp[21] == 0
    assert sharp[22] == pytest.approx(sharp[31], abs=3)
    half = overlay(black, [_quad(-0.005, 0, 1, 0.1)], K, alpha=1.0)[23, :, 0]
    assert half[21] == pytest.approx(half[31] / 2, abs=3)


def test_person_partly_behind_the_camera_is_drawn(picture: np.ndarray) -> None:
    floor = torch.tensor([[-5.0, 0.5, -3.0], [5.0, 0.5, -3.0], [0.0, 0.5, 30.0]])
    result = overlay(picture, [Mesh(vertices=floor, faces=torch.tensor([[0, 1, 2]]))], K)
    assert (result[40:] != picture[40:]).any()
    np.testing.assert_array_equal(result[:23], picture[:23])


def test_smallest_picture() -> None:
    assert overlay(np.zeros((1, 1, 3), np.uint8), [_quad(0, 0, 1, 5)], torch.eye(3)).shape == (1, 1, 3)


def test_lamps_keep_the_range_and_light_the_side_towards_the_camera() -> None:
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(500, 3, generator=generator), dim=-1)
    points = torch.tensor([0.0, 0.0, 3.0]).expand(500, 3)
    light = shade(normals, points, torch.full((500, 3), 0.5))
    assert bool(((light >= 0) & (light <= 1)).all())
    towards, away = light[normals[:, 2] < -0.7].mean(), light[normals[:, 2] > 0.7].mean()
    assert float(towards) > 1.5 * float(away)


def test_srgb_reference_values() -> None:
    expected = torch.tensor([0.0, 0.0380, 0.5029, 1.0])  # of linear 0, 0.00294, 0.217, 1
    torch.testing.assert_close(to_srgb(torch.tensor([0.0, 0.00294, 0.217, 1.0])), expected, rtol=0, atol=6e-4)


def test_neighbours_have_different_colours() -> None:
    assert len({person_color(i) for i in range(8)}) == 8
    assert person_color(8) == person_color(0)
