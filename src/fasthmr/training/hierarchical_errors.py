"""How well models of both tasks do on crops that are not augmented, person by person."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fasthmr.body.lbs import BodyModel
from fasthmr.evaluation.metrics import mpjpe_mm, pa_mpjpe_mm
from fasthmr.geometry.cameras import project_to_crop
from fasthmr.geometry.heatmaps import decode_heatmaps
from fasthmr.geometry.oks import oks
from fasthmr.geometry.rotations import rot6d_to_rotmat
from fasthmr.heads.smpl import SMPLHead
from fasthmr.models.hmr import HMR
from fasthmr.training.hierarchical_data import COCO17_POINTS, StoredCrops, from_pixels
from fasthmr.types import BodyParams, HMROutput

_TOGETHER = 64
OKS_THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))


@torch.no_grad()
def find_keypoints(model: nn.Module, crops: StoredCrops, count: int) -> Float[Tensor, "people 17 3"]:
    """Key points of the first crops in crop units, and their scores; without a mirrored second look."""
    found, size = [], crops.image_size
    for rows in torch.arange(count).split(_TOGETHER):
        maps = model(crops.batch(rows).pixels)
        cells, scores = decode_heatmaps(maps, "dark_udp", kernel=_blur(maps.shape[-2]))
        steps = [(pixels - 1) / (number - 1) for pixels, number in zip(size, maps.shape[-2:], strict=True)]
        places = from_pixels(cells * cells.new_tensor(steps[::-1]), size)
        found.append(torch.cat([places, scores[..., None]], dim=-1))
    return torch.cat(found)


def _blur(rows: int) -> int:
    """Width of the blur that reads maps: 11 cells of 64 rows, as released, less for smaller maps."""
    return max(3, 2 * (11 * rows // 128) + 1)


def true_keypoints(
    crops: StoredCrops, count: int
) -> tuple[Float[Tensor, "people 17 2"], Bool[Tensor, "people 17"]]:
    """Key points of the first crops in crop units, and which of them the network sees."""
    rows = list(COCO17_POINTS)
    return crops.labels("points")[:count, rows], crops.labels("inside")[:count, rows]


def keypoint_errors(
    found: Float[Tensor, "people 17 3"],
    true: Float[Tensor, "people 17 2"],
    inside: Bool[Tensor, "people 17"],
    areas: Float[Tensor, "people"],
) -> dict[str, Float[Tensor, "people"]]:
    """OKS of each person, its share of COCO's OKS thresholds ("AR" is its mean), and the share of points
    within a twentieth and a tenth of the crop side over its margin (the longer side of the box).

    Args:
        areas: Of the people, in squares of the crop side.
    """
    likeness = oks(found[..., :2], true, areas, inside)
    count = inside.sum(1).clamp(min=1)
    distance = (found[..., :2] - true).norm(dim=-1)
    passed = torch.stack([likeness >= threshold for threshold in OKS_THRESHOLDS]).float().mean(0)
    shares = {at: ((distance < at) & inside).sum(1) / count for at in (0.05, 0.1)}
    return {
        "OKS": likeness,
        "AR": passed,
        "PCK@0.05": shares[0.05],
        "PCK@0.1": shares[0.1],
    }


def mean_layout(
    true: Float[Tensor, "people 17 2"], inside: Bool[Tensor, "people 17"]
) -> Float[Tensor, "people 17 3"]:
    """The mean place of each point for everybody, as found by a predictor that sees nothing."""
    weights = inside[..., None].float()
    mean = (true * weights).sum(0) / weights.sum(0).clamp(min=1)
    return torch.cat([mean, torch.ones_like(mean[:, :1])], dim=-1).expand(len(true), -1, -1)


def mesh_errors(
    model: HMR, crops: StoredCrops, body: BodyModel, count: int
) -> dict[str, Float[Tensor, "people"]]:
    """MPJPE and PA-MPJPE of the 24 joints in mm, about the pelvis, and the share of joints within a tenth."""
    return _mesh_errors(lambda pixels: model.head(model.encoder(pixels)[-1]), crops, body, count)


def mean_pose_errors(
    model: HMR, crops: StoredCrops, body: BodyModel, count: int
) -> dict[str, Float[Tensor, "people"]]:
    """The same of the pose and shape that the model's head starts from."""
    head = cast(SMPLHead, model.head)
    pose = head.init_body_pose.unflatten(-1, (-1, 6))
    params = BodyParams.of_rotmats(rot6d_to_rotmat(pose, layout="columns"), head.init_betas)

    def predict(pixels: Tensor) -> HMROutput:
        everybody = torch.zeros(len(pixels), dtype=torch.long)
        return HMROutput(
            params=BodyParams(
                global_orient=params.global_orient[everybody],
                body_pose=params.body_pose[everybody],
                betas=params.betas[everybody],
            ),
            camera=head.init_cam[everybody],
        )

    return _mesh_errors(predict, crops, body, count)


@torch.no_grad()
def _mesh_errors(
    predict: Callable[[Tensor], HMROutput], crops: StoredCrops, body: BodyModel, count: int
) -> dict[str, Float[Tensor, "people"]]:
    rows: dict[str, list[Tensor]] = {"PA-MPJPE": [], "MPJPE": [], "PCK@0.1": []}
    for part in torch.arange(count).split(_TOGETHER):
        batch = crops.batch(part)
        output = predict(batch.pixels)
        _, ours = body.joint_transforms(output.params)
        _, true = body.joint_transforms(BodyParams.of_rotmats(batch.rotations, batch.betas))
        rows["PA-MPJPE"].append(pa_mpjpe_mm(ours, true))
        rows["MPJPE"].append(mpjpe_mm(ours, true))
        joints, inside = ours.shape[1], batch.inside[:, : ours.shape[1]]
        apart = project_to_crop(ours, output.camera) - batch.points[:, :joints]
        close = (apart.norm(dim=-1) < 0.1) & inside
        rows["PCK@0.1"].append(close.sum(1) / inside.sum(1).clamp(min=1))
    return {name: torch.cat(values).float() for name, values in rows.items()}
