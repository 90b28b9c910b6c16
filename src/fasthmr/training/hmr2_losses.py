"""The losses of HMR 2.0 (arXiv 2305.20091, sec. 3; sums as in the released code, not means)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.skeletons import HMR2_44_PELVIS
from fasthmr.types import BodyParams


@dataclass(frozen=True, kw_only=True)
class HMR2LossWeights:
    """Weight of each term of the released models.

    Sums grow with the batch; the weights belong to 48 samples on each of 8 devices. `adversarial` weighs the
    generator's term and the discriminator's own loss alike.
    """

    keypoints_2d: float = 0.01
    keypoints_3d: float = 0.05
    global_orient: float = 0.001
    body_pose: float = 0.001
    betas: float = 0.0005
    adversarial: float = 0.0005


@dataclass(frozen=True, kw_only=True)
class HMR2Labels:
    """What is known of each person of a batch.

    Attributes:
        keypoints_2d: x, y in crop units (pixel / crop side - 0.5) and confidence; 0 where unknown.
        keypoints_3d: x, y, z in metres about any origin, and confidence.
        params: Pose and shape; any values where unknown.
        has_global_orient, has_body_pose, has_betas: 1 where the label holds, else 0.
    """

    keypoints_2d: Float[Tensor, "batch points 3"]
    keypoints_3d: Float[Tensor, "batch points 4"]
    params: BodyParams
    has_global_orient: Float[Tensor, "batch"]
    has_body_pose: Float[Tensor, "batch"]
    has_betas: Float[Tensor, "batch"]


def hmr2_losses(
    keypoints_2d: Float[Tensor, "batch points 2"],
    keypoints_3d: Float[Tensor, "batch points 3"],
    params: BodyParams,
    labels: HMR2Labels,
    pelvis: int = HMR2_44_PELVIS,
) -> dict[str, Float[Tensor, ""]]:
    """Unweighted terms, each a plain sum over samples, points and coordinates.

    Args:
        keypoints_2d, keypoints_3d: Predicted points in crop units and in metres.
        pelvis: The point that 3D points are taken relative to, on both sides.
    """
    error_2d = (keypoints_2d - labels.keypoints_2d[..., :2]).abs()
    true_3d = labels.keypoints_3d[..., :3]
    centred = keypoints_3d - keypoints_3d[:, pelvis, None]
    error_3d = (centred - (true_3d - true_3d[:, pelvis, None])).abs()
    true = labels.params
    return {
        "keypoints_2d": (labels.keypoints_2d[..., 2:] * error_2d).sum(),
        "keypoints_3d": (labels.keypoints_3d[..., 3:] * error_3d).sum(),
        "global_orient": _squared(params.global_orient, true.global_orient, labels.has_global_orient),
        "body_pose": _squared(params.body_pose, true.body_pose, labels.has_body_pose),
        "betas": _squared(params.betas, true.betas, labels.has_betas),
    }


def weighted_sum(terms: dict[str, Tensor], weights: object) -> Float[Tensor, ""]:
    """Total of the terms, each times the weight of its name."""
    return torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()


def _squared(predicted: Tensor, true: Tensor, labelled: Float[Tensor, "batch"]) -> Float[Tensor, ""]:
    return (labelled * (predicted - true).square().flatten(1).sum(dim=1)).sum()
