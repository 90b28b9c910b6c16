"""Pure functions of triangle meshes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_CHUNK = 512
_CANDIDATES = 48
"""Triangles with the nearest centres whose true distances are compared."""


def vertex_normals(
    vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]
) -> Float[Tensor, "vertices 3"]:
    """Unit normals, mean of the faces round each vertex weighted by area; zero where there is none.

    Faces whose corners run counter-clockwise as seen from outside give normals that point out.
    """
    corners = vertices[faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total.index_add_(0, faces[:, corner].long(), normal)
    return F.normalize(total, dim=-1, eps=1e-20)


def mesh_edges(faces: Int[Tensor, "faces 3"]) -> Int[Tensor, "edges 2"]:
    """Pairs of vertices that share an edge, each once and the smaller index first, in order."""
    pairs = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).long()
    return torch.unique(pairs.sort(dim=1).values, dim=0)


def vertices_in_triangles(
    points: Float[Tensor, "points 3"], vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]
) -> tuple[Int[Tensor, "points 3"], Float[Tensor, "points 3"]]:
    """Corners of the triangle nearest to each point, and barycentric weights of its foot on the plane.

    The weights sum to one. Some are negative where the foot lies beside the triangle; where it lies more than
    a triangle's size off, the nearest point of the triangle stands in for it.
    """
    from scipy.spatial import KDTree

    corners = vertices[faces]
    centres = KDTree(corners.mean(1).numpy())
    count = min(_CANDIDATES, len(faces))
    best = torch.empty(len(points), dtype=torch.long)
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK]
        near = torch.from_numpy(np.asarray(centres.query(part.numpy(), count)[1])).view(-1, count)
        asked = part[:, None].expand(-1, near.shape[1], -1)
        foot = _inside(corners[near], asked)
        gap = (torch.einsum("...c,...cd->...d", foot, corners[near]) - asked).norm(dim=-1)
        best[start : start + _CHUNK] = near.gather(1, gap.argmin(1, keepdim=True))[:, 0]
    chosen = corners[best]
    plane = _on_plane(chosen, points)
    wild = ((plane < -1) | (plane > 2)).any(1, keepdim=True) | ~plane.isfinite().all(1, keepdim=True)
    return faces[best], torch.where(wild, _inside(chosen, points), plane)


def _on_plane(
    corners: Float[Tensor, "*batch 3 3"], points: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3"]:
    """Barycentric weights of the foot of each point on the plane of a triangle."""
    a, b, c = corners.unbind(-2)
    u, v, w = b - a, c - a, points - a
    uu, uv, vv, wu, wv = ((x * y).sum(-1) for x, y in ((u, u), (u, v), (v, v), (w, u), (w, v)))
    area = uu * vv - uv * uv
    second, third = (vv * wu - uv * wv) / area, (uu * wv - uv * wu) / area
    return torch.stack([1 - second - third, second, third], dim=-1)


def _inside(
    corners: Float[Tensor, "*batch 3 3"], points: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3"]:
    """Barycentric weights of the point of a triangle that is nearest to each point."""
    plane = _on_plane(corners, points)
    choices = [torch.where((plane >= 0).all(-1, keepdim=True), plane, torch.nan)]
    for i in range(3):
        j = (i + 1) % 3
        edge = corners[..., j, :] - corners[..., i, :]
        along = ((points - corners[..., i, :]) * edge).sum(-1) / edge.square().sum(-1).clamp_min(1e-30)
        share = along.clamp(0, 1)
        weights = torch.zeros_like(plane)
        weights[..., i], weights[..., j] = 1 - share, share
        choices.append(weights)
    tried = torch.stack(choices)
    gap = (torch.einsum("...c,...cd->...d", tried, corners) - points).norm(dim=-1).nan_to_num(nan=torch.inf)
    index = gap.argmin(0)[None, ..., None].expand(1, *plane.shape)
    return tried.gather(0, index)[0]
