"""The z-buffer against geometry that can be solved by hand and a per-pixel reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fasthmr.render import rasterizer
from fasthmr.render.rasterizer import interpolate, rasterize

K = torch.tensor([[100.0, 0.0, 31.5], [0.0, 100.0, 23.5], [0.0, 0.0, 1.0]])
SIZE = (48, 64)


def _rays(size: tuple[int, int], K: torch.Tensor) -> torch.Tensor:
    v, u = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).double()
    return pixels @ torch.linalg.inv(K.double()).T


def _reference(
    vertices: torch.Tensor, faces: torch.Tensor, near: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every ray against every triangle (Möller and Trumbore): depth, face, least barycentric of any face."""
    rays = _rays(SIZE, K).reshape(-1, 3)
    a, b, c = vertices.double()[faces].unbind(1)
    solution = torch.linalg.solve(torch.stack([a, b, c], dim=-1)[None], rays[:, None, :, None])[..., 0]
    inverse_depth = solution.sum(-1)
    depth = 1 / inverse_depth
    inside = (solution >= 0).all(-1) & (depth >= near)
    depth = torch.where(inside, depth, torch.inf)
    nearest, face = depth.min(1)
    margin = (solution / inverse_depth[..., None]).amin(-1).abs()
    margin = torch.minimum(margin, (1 - near * inverse_depth).abs()).amin(1)
    face = torch.where(nearest.isfinite(), face, -1)
    return nearest.reshape(SIZE).numpy(), face.reshape(SIZE).numpy(), margin.reshape(SIZE).numpy()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("crossing", [False, True])
def test_agrees_with_ray_casting(seed: int, crossing: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(12, 1, 3, generator=generator) * torch.tensor([0.3, 0.2, 0.4])
    center[..., 2] += 0.3 if crossing else 2.0
    vertices = (center + 0.25 * torch.randn(12, 3, 3, generator=generator)).reshape(-1, 3)
    faces = torch.arange(36).reshape(12, 3)
    result = rasterize(vertices, faces, K, SIZE)
    depth, face, margin = _reference(vertices, faces, near=0.05)
    clear = margin > 1e-6
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(result.face_id.numpy()[clear], face[clear])
    np.testing.assert_allclose(result.depth.numpy()[clear], depth[clear], rtol=2e-6)
    assert (face >= 0).mean() > 0.1


def test_slanted_plane_depth_and_barycentrics_are_perspective_correct() -> None:
    vertices = torch.tensor([[-3.0, -3.0, 2.0], [3.0, -3.0, 3.0], [3.0, 3.0, 5.0], [-3.0, 3.0, 4.0]])
    result = rasterize(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), K, SIZE)
    assert bool(result.silhouette.all())
    normal = torch.linalg.cross(vertices[1] - vertices[0], vertices[3] - vertices[0]).double()
    rays = _rays(SIZE, K)
    expected = (vertices[0].double() @ normal) / (rays @ normal)
    torch.testing.assert_close(result.depth.double(), expected, rtol=1e-6, atol=0)
    corners = vertices[torch.tensor([[0, 1, 2], [0, 2, 3]])]
    points = interpolate(result, corners)
    torch.testing.assert_close(points.double(), rays * expected[..., None], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.barycentrics.sum(-1), torch.ones(SIZE), rtol=0, atol=1e-6)


def test_integer_pixel_is_sampled_where_the_camera_projects_to() -> None:
    # Corners project to pixels (10, 5), (20, 5), (10, 15); samples on the border count.
    pixels = torch.tensor([[10.0, 5.0, 1.0], [20.0, 5.0, 1.0], [10.0, 15.0, 1.0]])
    grid_K = torch.tensor([[64.0, 0.0, 32.0], [0.0, 64.0, 24.0], [0.0, 0.0, 1.0]])
    vertices = 2 * pixels @ torch.linalg.inv(grid_K).T
    covered = rasterize(vertices, torch.tensor([[0, 1, 2]]), grid_K, SIZE).silhouette
    rows, columns = covered.nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (5, 15)
    assert (int(columns.min()), int(columns.max())) == (10, 20)
    assert int(covered.sum()) == 66


def test_nearer_triangle_hides_the_other_in_either_order() -> None:
    near, far = torch.full((3, 3), 1.0), torch.full((3, 3), 2.0)
    shape = torch.tensor([[-0.2, -0.2], [0.2, -0.2], [0.0, 0.2]])
    near[:, :2], far[:, :2] = shape, 3 * shape
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    first = rasterize(torch.cat([near, far]), faces, K, SIZE)
    second = rasterize(torch.cat([far, near]), faces, K, SIZE)
    torch.testing.assert_close(first.depth, second.depth, rtol=0, atol=0)
    assert int(first.face_id[23, 31]) == 0
    assert int(second.face_id[23, 31]) == 1
    assert set(first.face_id.unique().tolist()) == {-1, 0, 1}


def test_equal_depth_goes_to_the_smaller_face() -> None:
    vertices = torch.tensor([[-1.0, -1.0, 2.0], [1.0, -1.0, 2.0], [0.0, 1.0, 2.0]])
    faces = torch.tensor([[0, 1, 2]] * 4)
    assert set(rasterize(vertices, faces, K, SIZE).face_id.unique().tolist()) <= {-1, 0}


def test_closed_fan_leaves_no_holes_and_draws_nothing_outside() -> None:
    angles = torch.linspace(0, 2 * torch.pi, 98)[:-1]
    rim = torch.stack([0.15 * angles.cos(), 0.15 * angles.sin(), torch.full_like(angles, 1.0)], dim=-1)
    vertices = torch.cat([torch.tensor([[0.003, 0.001, 0.9]]), rim])
    ring = torch.arange(1, 98)
    faces = torch.stack([torch.zeros_like(ring), ring, ring.roll(-1)], dim=-1)
    covered = rasterize(vertices, faces, K, SIZE).silhouette
    radius = _rays(SIZE, K)[..., :2].norm(dim=-1)
    assert bool(covered[radius < 0.149].all())
    assert not bool(covered[radius > 0.1501].any())


def test_ground_plane_through_the_camera_is_cut_at_the_near_plane() -> None:
    vertices = torch.tensor([[-50.0, 1.0, -20.0], [50.0, 1.0, -20.0], [0.0, 1.0, 200.0]])
    result = rasterize(vertices, torch.tensor([[0, 1, 2]]), K, SIZE)
    rows = torch.arange(48) - 23.5
    expected = 100 / rows[25:]  # y = 1 at depth f / (v - cy)
    torch.testing.assert_close(result.depth[25:, 31], expected, rtol=1e-5, atol=0)
    assert not bool(result.silhouette[:24].any())
    cut = rasterize(vertices, torch.tensor([[0, 1, 2]]), K, SIZE, near=5.0)
    assert float(cut.depth.min()) >= 5.0
    assert bool(cut.silhouette[40, 31]) and not bool(cut.silhouette[46, 31])


def test_behind_outside_degenerate_and_broken_faces_cover_nothing() -> None:
    vertices = torch.tensor(
        [
            [-1.0, -1.0, -2.0], [1.0, -1.0, -2.0], [0.0, 1.0, -2.0],
            [50.0, 0.0, 1.0], [51.0, 0.0, 1.0], [50.0, 1.0, 1.0],
            [0.0, 0.0, 1.0], [0.1, 0.1, 1.0], [0.2, 0.2, 1.0],
            [float("nan"), 0.0, 1.0], [float("inf"), float("-inf"), 1.0],
        ]
    )  # fmt: skip
    faces = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8], [6, 6, 6], [6, 7, 9], [6, 8, 10]])
    result = rasterize(vertices, faces, K, SIZE)
    assert int(result.face_id.max()) == -1
    assert bool(result.depth.isinf().all())


def test_no_faces() -> None:
    result = rasterize(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), K, SIZE)
    assert int(result.face_id.max()) == -1
    assert interpolate(result, torch.zeros(0, 3, 4)).shape == (48, 64, 4)


def test_culling_keeps_counter_clockwise_faces() -> None:
    vertices = torch.tensor([[-1.0, -1.0, 2.0], [1.0, -1.0, 2.0], [0.0, 1.0, 2.0]])
    # y points down: seen from the camera 0 -> 2 -> 1 runs counter-clockwise.
    assert bool(rasterize(vertices, torch.tensor([[0, 2, 1]]), K, SIZE, cull=True).silhouette.any())
    assert not bool(rasterize(vertices, torch.tensor([[0, 1, 2]]), K, SIZE, cull=True).silhouette.any())


def test_result_does_not_depend_on_the_size_of_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    vertices = torch.randn(60, 3, generator=generator) * 0.3 + torch.tensor([0.0, 0.0, 1.5])
    faces = torch.randint(0, 60, (200, 3), generator=generator)
    whole = rasterize(vertices, faces, K, SIZE)
    monkeypatch.setattr(rasterizer, "_FACES_PER_PASS", 30)
    monkeypatch.setattr(rasterizer, "_ROWS_PER_PASS", 50)
    monkeypatch.setattr(rasterizer, "_PIXELS_PER_PASS", 70)
    pieces = rasterize(vertices, faces, K, SIZE)
    assert torch.equal(whole.face_id, pieces.face_id)
    assert torch.equal(whole.depth, pieces.depth)
