"""COCO's 17 points of people: from heat maps, else from the posed body."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import COCO17_NAMES
from fasthmr.data.records import POINT_NAMES
from fasthmr.errors import UsageError
from fasthmr.geometry.cameras import project
from fasthmr.runtime.intrinsics import PictureCamera
from fasthmr.runtime.place import PlacedPeople
from fasthmr.types import Crop, HMROutput

_COCO17_IN_POINTS = [POINT_NAMES.index(name) for name in COCO17_NAMES]


def coco_keypoints(
    output: HMROutput,
    placed: PlacedPeople,
    crop: Crop,
    scores: Float[Tensor, "persons"],
    camera: PictureCamera,
    body: BodyModel,
) -> Float[Tensor, "persons 17 3"] | None:
    """COCO-17 points (x, y, score) in pixels of the picture.

    Read from heat maps where the model has those of COCO. Else points of the body, with the scores of the
    model's heat maps of `POINT_NAMES`, or the detector's where there are none; None for a body without them.
    """
    measured = measured_points(output, crop)
    if measured is not None:
        return measured
    if not set(COCO17_NAMES) <= set(body.keypoint_names):
        return None
    rows = [body.keypoint_names.index(name) for name in COCO17_NAMES]
    points = body.keypoints(placed.mesh.vertices)[:, rows].double().cpu()
    confidence = coco_scores(output)
    if confidence is None:
        confidence = scores.to(points)[:, None].expand(-1, len(rows))
    xy = project(points, camera.K.expand(len(points), 3, 3))
    return torch.cat([xy, confidence[..., None]], dim=-1)


def measured_points(output: HMROutput, crop: Crop) -> Float[Tensor, "persons 17 3"] | None:
    """COCO-17 points (x, y in pixels, score) of heat maps, where the model has those."""
    heat = output.keypoints
    if heat is None or heat.score.shape[1] != len(COCO17_NAMES):
        return None
    xy = heat.xy.double().cpu() * crop.box_size[:, None, None] + crop.box_center[:, None, :]
    return torch.cat([xy, heat.score.double().cpu()[..., None]], dim=-1)


def coco_scores(output: HMROutput) -> Float[Tensor, "persons 17"] | None:
    """Scores of COCO's points in the heat maps of `POINT_NAMES`, where the model has those."""
    heat = output.keypoints
    if heat is None or heat.score.shape[1] != len(POINT_NAMES):
        return None
    return heat.score[:, _COCO17_IN_POINTS].double().cpu()


def no_keypoints(body: str) -> UsageError:
    """What is wrong where COCO's points are asked for."""
    return UsageError(
        f"neither this model nor the body '{body}' has COCO's keypoints; "
        "use another model or leave out the body"
    )
