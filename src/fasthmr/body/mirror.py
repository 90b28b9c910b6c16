"""Bodies and poses reflected in the plane x = 0: left hands from right ones."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fasthmr.body.lbs import BodyModel
from fasthmr.types import BodyParams


def mirror_points(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """x to -x."""
    return points * points.new_tensor([-1.0, 1.0, 1.0])


def mirror_params(params: BodyParams, rows: Bool[Tensor, " batch"]) -> BodyParams:
    """Pose and place of the mirrored body (`mirrored`) where `rows` says so; joints keep their order."""
    chosen = rows.to(params.betas.device)
    sign = params.global_orient.new_tensor([-1.0, 1.0, 1.0])
    both = torch.where(chosen[:, None, None, None], sign[:, None] * sign, 1.0)
    place = params.transl
    return BodyParams(
        global_orient=params.global_orient * both,
        body_pose=params.body_pose * both,
        betas=params.betas,
        transl=None if place is None else torch.where(chosen[:, None], mirror_points(place), place),
    )


def mirrored(body: BodyModel) -> BodyModel:
    """The mirror image of a body, faces turned so that they look outward.

    Joints keep their order, so that of a right hand this is a left hand, and of a body one whose left joints
    lie on its right.
    """
    sign = body.v_template.new_tensor([-1.0, 1.0, 1.0])
    posedirs = body.posedirs
    if posedirs is not None:
        turns = (sign[:, None] * sign).flatten().repeat(body.num_joints - 1)
        posedirs = posedirs * turns[:, None] * sign.repeat(body.num_vertices)
    image = BodyModel(
        v_template=body.v_template * sign,
        shapedirs=body.shapedirs * sign[:, None],
        faces=body.faces.flip(-1),
        parents=body.parents.tolist(),
        lbs_weights=body.lbs_weights,
        posedirs=posedirs,
        J_regressor=body.J_regressor,
        J_template=body.J_template * sign,
        J_shapedirs=body.J_shapedirs * sign[:, None],
        keypoint_regressor=body.keypoint_regressor,
        keypoint_names=body.keypoint_names,
        extras=body.extras,
        name=body.name,
    )
    return image.to(body.v_template.device)
