"""Primitive figures, octahedral maps and vertex merging."""

from __future__ import annotations

import numpy as np
import pytest

from fasthmr.data.figures import box_figure, octahedral_coordinates, octahedral_directions, round_figure
from fasthmr.data.wardrobe import merge_vertices, surface_normals


def test_octahedral_coordinates_invert_directions() -> None:
    size = 12
    place = octahedral_coordinates(octahedral_directions(size)) * size - 0.5
    column, row = np.meshgrid(np.arange(size), np.arange(size))
    np.testing.assert_allclose(place, np.stack([column, row], axis=-1), atol=1e-9)


@pytest.mark.parametrize("kind", ["box", "ball", "bar"])
def test_things_are_closed_and_face_outward(kind: str) -> None:
    figure = box_figure() if kind == "box" else round_figure(kind)
    position = figure.vertices["position"].astype(float)
    corners = position[figure.indices.reshape(-1, 3)]
    volume = np.linalg.det(corners).sum() / 6
    expected = {"box": 1.0, "ball": np.pi / 6, "bar": np.pi / 4}[kind]
    assert volume == pytest.approx(expected, rel=0.08)


def test_merging_keeps_opposite_sides_apart() -> None:
    vertices = np.array([[0, 0, 0.001], [0.001, 0, 0.001], [0, 0.0005, 0.002], [0.3, 0, 0]], dtype=np.float32)
    normals = np.array(
        [[0.5, 0.5, 0.7], [0.5, 0.5, 0.7], [0.5, 0.5, -0.7], [0.5, 0.5, 0.7]], dtype=np.float32
    )
    merged = merge_vertices(vertices, normals, 0.01)
    assert merged[0] == merged[1] != merged[2]
    assert merged[3] == 3
    np.testing.assert_array_equal(merge_vertices(vertices, normals, 0.0), np.arange(4))


def test_normals_of_a_sheet_with_two_equal_sides_are_finite() -> None:
    vertices = np.eye(3, dtype=np.float32)
    normals = surface_normals(vertices, np.array([[0, 1, 2], [0, 2, 1]]))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
