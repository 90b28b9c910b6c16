from __future__ import annotations

import numpy as np
import pytest
import torch

from fasthmr.geometry.decimation import decimate
from fasthmr.geometry.meshes import mesh_edges, vertices_in_triangles


def sphere(rings: int = 10, around: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """A ball of radius one with outward faces."""
    height = np.pi * np.arange(1, rings + 1) / (rings + 1)
    turn = 2 * np.pi * np.arange(around) / around
    z = np.repeat(np.cos(height), around)
    x, y = (np.outer(np.sin(height), f(turn)).ravel() for f in (np.cos, np.sin))
    points = np.concatenate([np.stack([x, y, z], 1), [[0, 0, 1], [0, 0, -1]]])
    top, bottom, faces = rings * around, rings * around + 1, []
    for j in range(around):
        k = (j + 1) % around
        faces += [(top, j, k), (bottom, (rings - 1) * around + k, (rings - 1) * around + j)]
        for i in range(rings - 1):
            a, b, c, d = i * around + j, i * around + k, (i + 1) * around + j, (i + 1) * around + k
            faces += [(a, c, b), (b, c, d)]
    return points, np.array(faces)


def grid(n: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """A flat square with a boundary."""
    y, x = np.mgrid[:n, :n]
    points = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1).astype(float)
    a = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    return points, np.concatenate([np.stack([a, a + 1, a + n], 1), np.stack([a + 1, a + n + 1, a + n], 1)])


def euler(vertices: int, faces: np.ndarray) -> int:
    return vertices - len(mesh_edges(torch.from_numpy(faces))) + len(faces)


@pytest.mark.parametrize("target", [70, 36, 12])
def test_a_closed_surface_stays_one(target):
    points, faces = sphere()
    kept, coarse = decimate(points, faces, target)
    assert len(kept) == target and (np.diff(kept) > 0).all()
    assert len(coarse) == 2 * target - 4 and euler(target, coarse) == 2
    assert set(np.unique(coarse)) == set(range(target))
    corners = points[kept][coarse]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normal * corners.mean(1)).sum(1) > 0).all()  # outward still


def test_every_edge_of_a_closed_surface_has_two_faces():
    points, faces = sphere()
    _, coarse = decimate(points, faces, 30)
    directed = np.concatenate([coarse[:, [0, 1]], coarse[:, [1, 2]], coarse[:, [2, 0]]])
    assert len(np.unique(directed, axis=0)) == len(directed)
    assert {tuple(edge) for edge in directed} == {tuple(edge[::-1]) for edge in directed}


def test_corners_and_boundary_of_a_flat_square_stay():
    points, faces = grid()
    kept, coarse = decimate(points, faces, 16)
    assert {0, 7, 56, 63} <= set(kept.tolist())
    corners = points[kept][coarse]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] / 2
    assert (area > 0).all() and area.sum() == pytest.approx(49)


def test_bumps_are_kept_and_plains_are_thinned():
    points, faces = grid(9)
    points[40, 2] = 3.0
    kept, _ = decimate(points, faces, 20)
    assert 40 in kept


def test_vertices_of_no_face_are_kept():
    points, faces = sphere()
    points = np.concatenate([points, [[5.0, 5, 5]]])
    kept, _ = decimate(points, faces, 40)
    assert len(points) - 1 in kept


def test_too_few_vertices_are_refused():
    points, faces = sphere()
    with pytest.raises(ValueError, match="tear or fold"):
        decimate(points, faces, 3)


def test_edges_once_and_in_order():
    edges = mesh_edges(torch.tensor([[2, 0, 1], [1, 3, 2]]))
    assert edges.tolist() == [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]


def test_the_nearest_triangle_among_all():
    points, faces = (torch.from_numpy(x) for x in sphere())
    asked = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    asked = asked / asked.norm(dim=1, keepdim=True) * 0.98
    corners, weights = vertices_in_triangles(asked, points, faces)
    assert torch.allclose(weights.sum(1), torch.ones(200, dtype=torch.float64))
    found = (points[corners] * weights[..., None]).sum(1)
    shares = torch.rand(4000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shares = shares / shares.sum(1, keepdim=True)
    sampled = torch.einsum("sc,fcd->sfd", shares, points[faces]).flatten(0, 1)
    distance = torch.stack([(sampled - p).norm(dim=1).min() for p in asked[:40]])
    assert ((found[:40] - asked[:40]).norm(dim=1) <= distance + 1e-9).all()


def test_points_beside_a_lone_triangle():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    asked = torch.tensor([[0.2, 0.3, 0.5], [-0.5, 0.2, 0.1], [9, 0.0, 0]], dtype=torch.float64)
    _, weights = vertices_in_triangles(asked, vertices, torch.tensor([[0, 1, 2]]))
    expected = [[0.5, 0.2, 0.3], [1.3, -0.5, 0.2], [0, 1, 0]]  # the last is too far to go on beyond it
    assert torch.allclose(weights, torch.tensor(expected, dtype=torch.float64))
