"""Parameters predicted for one body, put onto another."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.lbs import BodyModel
from fasthmr.types import BodyParams

SHARED_JOINTS = 22
"""Joints of SMPL without hands; SMPL-H and SMPL-X begin with the same."""

_HIPS = (1, 2)
_LIMBS = (1, 2, 4, 5, 7, 8, 16, 17, 18, 19, 20, 21)
_PRIOR = 2.5e-4  # square metres per squared deviation: 1.6 cm of joint error weigh as much as one


def transfer_params(params: BodyParams, source: BodyModel, target: BodyModel) -> BodyParams:
    """Pose, shape and place for another body of the SMPL family.

    Rotations are kept; joints that the source lacks (fingers, face) stay at rest. Shape coefficients mean
    different things in different bodies, so those are chosen that bring the limbs of the resting target
    closest to the source (ridge regression, exact since both are linear). The midpoint of the hips keeps
    its place.

    Raises:
        ValueError: The target is no body of the SMPL family (a hand, for example).
    """
    if target.num_joints < SHARED_JOINTS:
        raise ValueError(
            f"body '{target.name}' has {target.num_joints} joints, at least {SHARED_JOINTS} are needed"
        )
    body_pose = fit_pose(params.body_pose, target)
    betas = _fit_betas(source, target, params.betas)
    moved = _hips(source, params.betas, params.global_orient) - _hips(target, betas, params.global_orient)
    transl = moved if params.transl is None else params.transl + moved
    return BodyParams(global_orient=params.global_orient, body_pose=body_pose, betas=betas, transl=transl)


def fit_pose(
    body_pose: Float[Tensor, "*batch joints_1 3 3"], body: BodyModel
) -> Float[Tensor, "*batch target_1 3 3"]:
    """Rotations for the joints of a body of the SMPL family; of other bodies only those that all share."""
    if body_pose.shape[-3] == body.num_joints - 1:
        return body_pose
    shared = body_pose[..., : SHARED_JOINTS - 1, :, :]
    rest = torch.eye(3, dtype=shared.dtype, device=shared.device)
    return torch.cat([shared, rest.expand(*shared.shape[:-3], body.num_joints - SHARED_JOINTS, 3, 3)], dim=-3)


def _rest_joints(
    body: BodyModel, betas: Float[Tensor, "*batch num_betas"]
) -> Float[Tensor, "*batch joints 3"]:
    return body.J_template + torch.einsum("jcb,...b->...jc", body.J_shapedirs[..., : betas.shape[-1]], betas)


def _hips(
    body: BodyModel, betas: Float[Tensor, "*batch num_betas"], global_orient: Float[Tensor, "*batch 1 3 3"]
) -> Float[Tensor, "*batch 3"]:
    """Midpoint of the hips under the rotation of the root, before translation."""
    rest = _rest_joints(body, betas)
    root = rest[..., 0, :]
    middle = rest[..., _HIPS, :].mean(-2)
    return root + (global_orient[..., 0, :, :] @ (middle - root)[..., None])[..., 0]


def _fit_betas(
    source: BodyModel, target: BodyModel, betas: Float[Tensor, "*batch num_betas"]
) -> Float[Tensor, "*batch target_betas"]:
    def relative(joints: Tensor) -> Tensor:  # (..., joints, 3) to (..., limbs * 3)
        return (joints[..., _LIMBS, :] - joints[..., _HIPS, :].mean(-2, keepdim=True)).flatten(-2)

    wanted = relative(_rest_joints(source, betas)) - relative(target.J_template)
    directions = relative(target.J_shapedirs.permute(2, 0, 1)).double()
    gram = directions @ directions.mT + _PRIOR * torch.eye(len(directions)).to(directions)
    return torch.linalg.solve(gram, directions @ wanted.double().mT).mT.to(betas.dtype)
