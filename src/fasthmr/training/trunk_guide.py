"""What a trunk that learns is told of its map, besides what the head asks of it; for training alone.

Heat maps and depths of joints (integral regression, arXiv 1711.08229), and for each cell that shows the
surface its place on the mesh at rest (after DensePose, arXiv 1802.00434). The surface is ours here: a few
joints say little of which way a hand is turned, and every cell that shows it does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fasthmr.heads.keypoint_smpl import cell_centers
from fasthmr.training.losses import heat_loss
from fasthmr.training.tore_losses import MeshLabels

_FINER = {"heat": 4, "depth": 4, "surface": 2}
"""Cells of what is read along one cell of the trunk's map."""

_WEIGHTS = {"depth": 10.0, "surface": 5.0}
"""Of a metre of depth, and of the surface, beside the cross-entropy of heat maps."""

_SKIN = 0.05
"""Share of the mesh's depth behind the nearest vertex of a cell that is seen as well."""


class TrunkGuide(nn.Module):
    """Reads joints and surface from the map of a trunk, and says how wrong they are.

    Args:
        channels: Of the map.
        rest: The finest mesh that losses compare, at rest.
    """

    places: Tensor

    def __init__(self, channels: int, joints: int, rest: Float[Tensor, "vertices 3"]) -> None:
        super().__init__()
        self.read = nn.ModuleDict(
            {
                name: nn.Conv2d(channels, count * _FINER[name] ** 2, 1)
                for name, count in (("heat", joints), ("depth", joints), ("surface", 4))
            }
        )
        centred = rest - rest.mean(0)
        self.register_buffer("places", centred / centred.abs().max(), persistent=False)

    def forward(
        self, maps: Float[Tensor, "batch channels rows columns"], labels: MeshLabels
    ) -> dict[str, Float[Tensor, ""]]:
        """Weighted terms: `heat`, `depth` and `surface`."""
        heat, depth, surface = (F.pixel_shuffle(self.read[name](maps), by) for name, by in _FINER.items())
        cross, error = _joint_terms(heat, depth, labels)
        found = {"heat": cross, "depth": error, "surface": self._surface_term(surface, labels)}
        return {name: _WEIGHTS.get(name, 1.0) * value for name, value in found.items()}

    def _surface_term(
        self, found: Float[Tensor, "batch 4 rows columns"], labels: MeshLabels
    ) -> Float[Tensor, ""]:
        """Cross-entropy of where the surface is seen, and mean difference of its places at rest."""
        covered, places = seen_surface(labels, self.places, (found.shape[2], found.shape[3]))
        known = (labels.has_mesh * labels.has_3d)[:, None]
        cross = F.binary_cross_entropy_with_logits(
            found[:, 3].flatten(1), covered.float(), weight=known.expand(covered.shape)
        )
        gap = (found[:, :3].flatten(2).mT - places).abs().mean(-1) * covered * known
        return cross + gap.sum() / (covered * known).sum().clamp(min=1)


def _joint_terms(
    heat: Float[Tensor, "batch joints rows columns"],
    depth: Float[Tensor, "batch joints rows columns"],
    labels: MeshLabels,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross-entropy with Gaussians about joints, and the mean error of depth in metres about the root.

    A depth is read where the heat is.
    """
    rows, columns = heat.shape[-2:]
    cells = cell_centers(rows, columns)
    outside = heat.new_zeros(*heat.shape[:2], 1)
    logits = torch.cat([heat.flatten(2), outside], dim=-1)
    places = labels.joints_2d[..., :2] / 2
    seen = (labels.joints_2d[..., 2] > 0) & (places.abs() < 0.5).all(-1)
    cross = heat_loss(logits, places, seen, cells[:columns, 0], cells[::columns, 1], 1.2 / rows)
    found = (heat.flatten(2).softmax(dim=-1) * depth.flatten(2)).sum(-1)
    known = seen * labels.joints_3d[..., 3] * labels.has_3d[:, None]
    error = (known * (found - labels.joints_3d[..., 2]).abs()).sum() / known.sum().clamp(min=1)
    return cross, error


def seen_surface(
    labels: MeshLabels, places: Float[Tensor, "vertices 3"], size: tuple[int, int]
) -> tuple[Bool[Tensor, "batch cells"], Float[Tensor, "batch cells 3"]]:
    """Which cells of the crop show the finest mesh, and the mean place of the vertices in front there.

    Args:
        places: Of the vertices at rest.
        size: Rows and columns of cells.
    """
    vertices, (rows, columns) = labels.vertices[-1], size
    pixels = _project(vertices, labels)
    cell = ((pixels + 1) / 2 * vertices.new_tensor([columns, rows])).floor()
    inside = ((cell >= 0) & (cell < cell.new_tensor([columns, rows]))).all(-1)
    index = torch.where(inside, cell[..., 1] * columns + cell[..., 0], float(rows * columns)).long()
    depth = vertices[..., 2]
    nearest = depth.new_full((len(depth), rows * columns + 1), torch.inf)
    nearest = nearest.scatter_reduce(1, index, depth, "amin")
    thick = _SKIN * (depth.amax(1, keepdim=True) - depth.amin(1, keepdim=True))
    front = (depth <= nearest.gather(1, index) + thick).to(depth.dtype)
    count = depth.new_zeros(nearest.shape).scatter_add(1, index, front)[:, :-1]
    total = depth.new_zeros(*nearest.shape, 3)
    total = total.scatter_add(1, index[..., None].expand(-1, -1, 3), front[..., None] * places)[:, :-1]
    return count > 0, total / count.clamp(min=1)[..., None]


def _project(points: Float[Tensor, "batch points 3"], labels: MeshLabels) -> Float[Tensor, "batch points 2"]:
    """Points in the crop, by the pinhole camera that fits the known joints best.

    With x, y, z about the root, u = (a x + b) / (z + d) and v = (a y + c) / (z + d): linear in a, b, c, d.
    """
    (x, y, z, certain), (u, v, seen) = labels.joints_3d.unbind(-1), labels.joints_2d.unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    left = torch.cat([torch.stack([x, one, zero, -u], -1), torch.stack([y, zero, one, -v], -1)], 1)
    right = torch.cat([u * z, v * z], 1)[..., None]
    weight = (certain * seen).repeat(1, 2)[..., None]
    normal = (left * weight).mT @ left + 1e-9 * torch.eye(4).to(left)
    a, b, c, d = torch.linalg.solve(normal, (left * weight).mT @ right).unbind(1)
    away = (points[..., 2] + d).clamp(min=1e-3)
    return torch.stack([(a * points[..., 0] + b) / away, (a * points[..., 1] + c) / away], -1)
