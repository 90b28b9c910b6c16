"""Losses of the keypoint-guided SMPL head on synthetic labels.

The terms of HMR2.0 (2D, 3D, rotations, shape; arXiv 2305.20091, sec. 3) as means instead of sums, with the
heat-map, depth and mask terms that make training from scratch possible.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fasthmr.body.keypoints import KeypointBody
from fasthmr.data.augment import TrainBatch
from fasthmr.geometry.cameras import project_to_crop
from fasthmr.heads.keypoint_smpl import KeypointSMPLOutput, PoseEstimate, cell_centers
from fasthmr.types import BodyParams

HEAT_SIGMA = 1.2 / 32
"""Standard deviation of the heat-map targets in crop units: 1.2 cells of a 128-pixel crop."""


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weight of each mean term.

    Set by the gradients that each term sends into the encoder: those of the root, whose sign flips with every
    front and back taken for one another, are mostly noise and must not drown the heat maps.
    """

    heat: float = 3.0
    xy: float = 10.0
    depth: float = 6.0
    mask: float = 2.0
    rotation: float = 2.5
    root: float = 0.8
    points_3d: float = 5.0
    points_2d: float = 4.0
    betas: float = 0.1


def heat_loss(
    heat_logits: Float[Tensor, "batch points cells_1"],
    points: Float[Tensor, "batch points 2"],
    inside: Bool[Tensor, "batch points"],
    columns: Float[Tensor, "columns"],
    rows: Float[Tensor, "rows"],
    sigma: float,
) -> Float[Tensor, ""]:
    """Cross-entropy with a Gaussian for points inside, with the last logit for points outside.

    Args:
        columns, rows: Cell centres in crop units.
        sigma: Standard deviation of the target in crop units.
    """
    log_heat = heat_logits.float().log_softmax(dim=-1)
    along_x = ((points[..., :1] - columns).square() / (-2 * sigma**2)).softmax(dim=-1)
    along_y = ((points[..., 1:] - rows).square() / (-2 * sigma**2)).softmax(dim=-1)
    maps = log_heat[..., :-1].unflatten(-1, (len(rows), len(columns)))
    # The Gaussian factors, so its inner product with the map needs no map of its own.
    crossed = ((maps @ along_x.unsqueeze(-1)).squeeze(-1) * along_y).sum(-1)
    return -torch.where(inside, crossed, log_heat[..., -1]).mean()


def pose_losses(pose: PoseEstimate, batch: TrainBatch, keypoint_body: KeypointBody) -> dict[str, Tensor]:
    """Rotation, shape, 3D and reprojection terms, unweighted means."""
    points = keypoint_body(BodyParams.of_rotmats(pose.rotmats, pose.betas))
    projected = project_to_crop(points, pose.camera)
    seen = batch.inside[..., None]
    error_2d = (projected - batch.points).abs().clamp(max=1) * torch.where(seen, 1.0, 0.3)
    return {
        "rotation": (pose.rotmats[:, 1:] - batch.rotations[:, 1:]).abs().mean(),
        "root": (pose.rotmats[:, :1] - batch.rotations[:, :1]).abs().mean(),
        "betas": (pose.betas - batch.betas).square().mean(),
        "points_3d": (points - points[:, :1] - batch.points_3d).abs().mean(),
        "points_2d": error_2d.mean(),
    }


def losses(
    output: KeypointSMPLOutput,
    batch: TrainBatch,
    keypoint_body: KeypointBody,
    weights: LossWeights,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Weighted sum and the unweighted terms."""
    width = batch.mask.shape[-1]
    cells = cell_centers(*batch.mask.shape[-2:])
    columns, rows = cells[:width, 0], cells[::width, 1]
    inside = batch.inside.float()
    count = inside.sum().clamp(min=1)
    terms = {
        "heat": heat_loss(output.heat_logits, batch.points, batch.inside, columns, rows, HEAT_SIGMA),
        "xy": ((output.points.xy - batch.points).abs().sum(-1) * inside).sum() / count,
        "depth": ((output.points.z - batch.points_3d[..., 2]).abs() * inside).sum() / count,
        "mask": F.binary_cross_entropy_with_logits(output.mask_logits.float(), batch.mask),
        **pose_losses(output.pose, batch, keypoint_body),
    }
    total = torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
    return total, terms
