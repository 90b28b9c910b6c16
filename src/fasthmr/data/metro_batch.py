"""Rows of METRO's files as batches for a model: cut, changed, and with what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fasthmr.body.hand_points import mean_hand_pose
from fasthmr.body.lbs import BodyModel
from fasthmr.data.metro_example import MetroAugmentation, metro_example
from fasthmr.data.metro_tsv import Kind, MetroRow
from fasthmr.geometry.crops import normalize
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.types import BodyParams

TOKEN_JOINTS: dict[Kind, tuple[int, ...]] = {"body": (*range(13), 18), "hand": tuple(range(21))}
"""Annotated joints that models give."""

ANNOTATED_ROOT: dict[Kind, int] = {"body": 14, "hand": 0}
"""Pelvis, or wrist, among the annotated joints."""


@dataclass(frozen=True, kw_only=True)
class MetroBatch:
    """Samples of a data set.

    Attributes:
        seen: Crops for the model, normalised.
        joints_2d: All annotated joints: x and y from -1 to 1 in the crop, and confidence.
        joints_3d: Metres, camera axes, and confidence.
        pose: Axis-angles as annotated, the root first.
    """

    seen: Float[Tensor, "batch 3 height width"]
    joints_2d: Float[Tensor, "batch joints 3"]
    joints_3d: Float[Tensor, "batch joints 4"]
    pose: Float[Tensor, "batch pose"]
    betas: Float[Tensor, "batch 10"]
    has_3d: Bool[Tensor, " batch"]
    has_mesh: Bool[Tensor, " batch"]

    def params(self, body: BodyModel, kind: Kind) -> BodyParams:
        """Pose and shape of SMPL or MANO, whose poses of fingers are relative to their mean."""
        pose = self.pose.unflatten(1, (-1, 3))
        if kind == "hand":
            pose = torch.cat([pose[:, :1], pose[:, 1:] + mean_hand_pose(body).to(pose)], dim=1)
        return BodyParams.of_rotmats(axis_angle_to_rotmat(pose), self.betas)


def cut_rows(
    rows: Sequence[MetroRow], changes: Sequence[MetroAugmentation], image_size: tuple[int, int]
) -> MetroBatch:
    """Crops of rows, each changed as said; of pictures that are higher than wide the middle of the square.

    Raises:
        InputError: The square of a row is empty.
    """
    height, width = image_size
    examples = [
        metro_example(row.rgb, row.center, row.side, row.labels, change, crop_size=height)
        for row, change in zip(rows, changes, strict=True)
    ]
    margin = (height - width) // 2
    pixels = torch.stack([example.pixels for example in examples])[..., margin : height - margin]
    labels = [example.labels for example in examples]
    return MetroBatch(
        seen=normalize(255 * pixels),
        joints_2d=torch.stack([label.joints_2d for label in labels]),
        joints_3d=torch.stack([label.joints_3d for label in labels]),
        pose=torch.stack([label.pose for label in labels]),
        betas=torch.stack([row.betas for row in rows]),
        has_3d=torch.tensor([row.has_3d for row in rows]),
        has_mesh=torch.tensor([row.has_mesh for row in rows]),
    )
