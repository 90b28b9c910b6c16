"""Loss terms of METRO, FastMETRO and TORE, as their released code computes them.

Papers: arXiv 2012.09760 sec. 3.4, 2207.13820 sec. 3.5, 2211.10705 sec. 3.4. Points are metres about the root,
as the camera sees them; places in the crop run from -1 to 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fasthmr.geometry.alignment import similarity_transform
from fasthmr.geometry.meshes import mesh_edges

_TINY = 1e-12


def project_weak(
    points: Float[Tensor, "batch points 3"], camera: Float[Tensor, "batch 3"]
) -> Float[Tensor, "batch points 2"]:
    """s (x + t) for cameras (s, tx, ty); the papers print s x + t."""
    return camera[:, None, :1] * (points[..., :2] + camera[:, None, 1:])


def _gap(found: Tensor, true: Tensor, squared: bool) -> Tensor:
    return (found - true).square() if squared else (found - true).abs()


def joints_2d_loss(
    found: Float[Tensor, "batch joints 2"], true: Float[Tensor, "batch joints 3"], *, squared: bool
) -> Float[Tensor, ""]:
    """Mean difference of places, each times its confidence."""
    return (true[..., 2:] * _gap(found, true[..., :2], squared)).mean()


def joints_3d_loss(
    found: Float[Tensor, "batch joints 3"],
    true: Float[Tensor, "batch joints 4"],
    has_3d: Float[Tensor, " batch"],
    *,
    squared: bool,
    root: tuple[int, ...] = (2, 3),
) -> Float[Tensor, ""]:
    """Mean difference of points, about the middle of `root` on both sides, over samples that have them."""
    points = true[..., :3]
    if root:
        found = found - found[:, list(root)].mean(1, keepdim=True)
        points = points - points[:, list(root)].mean(1, keepdim=True)
    return _mean_of_known(true[..., 3:] * _gap(found, points, squared), has_3d)


def vertices_loss(
    found: Float[Tensor, "batch vertices 3"],
    true: Float[Tensor, "batch vertices 3"],
    has_mesh: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Mean absolute difference over samples that have a mesh."""
    return _mean_of_known((found - true).abs(), has_mesh)


def aligned_loss(
    found: tuple[Float[Tensor, "batch _vertices 3"], ...],
    true: tuple[Float[Tensor, "batch _vertices 3"], ...],
    has_mesh: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Mean absolute difference, over levels, from the true points turned and moved onto those found.

    Ours. A mean over turns that cannot be told apart is smaller than any of them, which this term minds.
    The turn is that of the first level, and no gradient flows through it.
    """
    _, rotation, _ = similarity_transform(true[0], found[0].detach())
    turn = rotation.to(found[0]).mT
    gaps = []
    for level, target in zip(found, true, strict=True):
        turned = (target - target.mean(1, keepdim=True)) @ turn
        gaps.append(_mean_of_known((level - level.mean(1, keepdim=True) - turned).abs(), has_mesh))
    return torch.stack(gaps).mean()


def edge_length_loss(
    found: Float[Tensor, "batch vertices 3"],
    true: Float[Tensor, "batch vertices 3"],
    has_mesh: Float[Tensor, " batch"],
    edges: Int[Tensor, "edges 2"],
    eps: float = 1e-8,
) -> Float[Tensor, ""]:
    """Mean difference of the lengths of edges."""
    gap = (_lengths(found, edges, eps) - _lengths(true, edges, eps)).abs()
    return _mean_of_known(gap, has_mesh)


def edge_self_loss(
    found: Float[Tensor, "batch vertices 3"],
    has_mesh: Float[Tensor, " batch"],
    edges: Int[Tensor, "edges 2"],
    eps: float = 1e-8,
) -> Float[Tensor, ""]:
    """Mean length of edges."""
    return _mean_of_known(_lengths(found, edges, eps), has_mesh)


def normal_loss(
    found: Float[Tensor, "batch vertices 3"],
    true: Float[Tensor, "batch vertices 3"],
    has_mesh: Float[Tensor, " batch"],
    faces: Int[Tensor, "faces 3"],
) -> Float[Tensor, ""]:
    """Mean |cosine| between the edges of a face and its true normal."""
    corners = true[:, faces]
    sides = F.normalize(corners[:, :, 1:] - corners[:, :, :1], dim=-1)
    normal = F.normalize(torch.linalg.cross(sides[:, :, 0], sides[:, :, 1]), dim=-1)
    drawn = found[:, faces]
    edges = F.normalize(drawn[:, :, [1, 2, 2]] - drawn[:, :, [0, 0, 1]], dim=-1)
    return _mean_of_known((edges * normal[:, :, None]).sum(-1).abs(), has_mesh)


def parameter_loss(
    rotmats: Float[Tensor, "batch joints 3 3"],
    betas: Float[Tensor, "batch betas"],
    true_rotmats: Float[Tensor, "batch joints 3 3"],
    true_betas: Float[Tensor, "batch betas"],
    has_mesh: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Squared differences of rotation matrices, and a tenth of those of the shape."""
    return _mean_of_known((rotmats - true_rotmats).square(), has_mesh) + 0.1 * _mean_of_known(
        (betas - true_betas).square(), has_mesh
    )


def covered_cells(
    places: Float[Tensor, "batch points 2"], grid: tuple[int, int]
) -> Float[Tensor, "batch rows columns"]:
    """1 for cells of the crop that a point lies in, 0 for others; points outside do not count."""
    size = places.new_tensor([grid[1], grid[0]])
    cell = ((places + 1) / 2 * size).floor()
    inside = ((cell >= 0) & (cell < size)).all(-1)
    flat = torch.where(inside, cell[..., 1] * grid[1] + cell[..., 0], grid[0] * grid[1]).long()
    marks = places.new_zeros(len(places), grid[0] * grid[1] + 1)
    return marks.scatter_(1, flat, 1.0)[:, :-1].unflatten(1, grid)


def relative_scores(
    clusters: Float[Tensor, "*batch tokens cells"],
) -> Float[Tensor, "*batch tokens cells"]:
    """Weights of each token from 0 at its least to 1 at its greatest."""
    low, high = clusters.amin(-1, keepdim=True), clusters.amax(-1, keepdim=True)
    return (clusters - low) / (high - low + _TINY)


def cluster_loss(
    clusters: Float[Tensor, "batch tokens cells"],
    covered: Float[Tensor, "batch rows columns"],
    has_mesh: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """How much tokens look at cells without the person: a sum, not the mean that TORE's eq. 5 prints."""
    beside = (1 - covered.flatten(1)) * has_mesh[:, None]
    return (relative_scores(clusters) * beside[:, None]).sum()


def loss_edges(faces: Int[Tensor, "faces 3"], *, each_face: bool) -> Int[Tensor, "edges 2"]:
    """The three edges of every face, or every edge once."""
    return (
        torch.cat([faces[:, [0, 1]], faces[:, [0, 2]], faces[:, [1, 2]]]) if each_face else mesh_edges(faces)
    )


def _lengths(points: Tensor, edges: Tensor, eps: float) -> Float[Tensor, "batch edges"]:
    return ((points[:, edges[:, 0]] - points[:, edges[:, 1]]).square().sum(-1) + eps).sqrt()


def _mean_of_known(values: Tensor, known: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean over the samples of which something is known; 0 where there is none."""
    each = values.flatten(1).mean(1)
    return (each * known).sum() / known.sum().clamp(min=1)
