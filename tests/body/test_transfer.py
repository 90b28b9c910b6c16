from __future__ import annotations

import pytest
import torch

from fasthmr.body.default_body import load_default_body, load_default_hand
from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import SMPLX_PARENTS
from fasthmr.body.transfer import transfer_params
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.types import BodyParams


def some_params(people: int = 4, seed: int = 0) -> BodyParams:
    random = torch.Generator().manual_seed(seed)
    rotations = axis_angle_to_rotmat(0.4 * torch.randn(people, 24, 3, generator=random))
    return BodyParams(
        global_orient=rotations[:, :1],
        body_pose=rotations[:, 1:],
        betas=torch.randn(people, 10, generator=random),
        transl=torch.randn(people, 3, generator=random),
    )


def moved_body(
    body: BodyModel, *, offset: tuple[float, float, float], parents: tuple[int, ...] | None = None
) -> BodyModel:
    """The same surface with another origin, half the shape directions (turned round), perhaps more joints."""
    parents = parents or tuple(body.parents.tolist())
    extra = len(parents) - body.num_joints
    shift = torch.tensor(offset)
    last = [20 if joint % 2 == 0 else 21 for joint in range(extra)]
    joints = torch.cat([body.J_template, body.J_template[last]]) + shift
    directions = torch.cat([body.J_shapedirs, body.J_shapedirs[last]])
    if extra:  # SMPL-X has no SMPL hands; its rows 22.. hang on the face and wrists
        weights = torch.cat([body.lbs_weights, torch.zeros(body.num_vertices, extra)], dim=1)
        weights[:, 20:22] += weights[:, 22:24]
        weights[:, 22:24] = 0
    else:
        weights = body.lbs_weights
    return BodyModel(
        v_template=body.v_template + shift,
        shapedirs=-body.shapedirs[..., :5],
        faces=body.faces,
        parents=parents,
        lbs_weights=weights,
        J_template=joints,
        J_shapedirs=-directions[..., :5],
        name="moved",
    )


def test_the_same_body_is_found_again() -> None:
    body, params = load_default_body(), some_params()
    same = body(transfer_params(params, body, body))
    error = (same.joints - body(params).joints).norm(dim=-1)
    assert error.mean() < 0.01


@pytest.mark.parametrize("parents", [None, SMPLX_PARENTS], ids=["24 joints", "55 joints"])
def test_limbs_stay_in_place_on_a_body_with_other_origin_and_shapes(parents: tuple[int, ...] | None) -> None:
    body = load_default_body()
    other = moved_body(body, offset=(0.0, -0.24, 0.03), parents=parents)
    params = some_params()
    params = BodyParams(
        global_orient=params.global_orient,
        body_pose=params.body_pose,
        betas=torch.cat([params.betas[:, :5], torch.zeros(4, 5)], dim=1),
        transl=params.transl,
    )
    moved = transfer_params(params, body, other)
    assert moved.body_pose.shape == (4, other.num_joints - 1, 3, 3)
    assert moved.betas.shape == (4, 5)
    limbs = [1, 2, 4, 5, 7, 8, 16, 17, 18, 19, 20, 21]
    error = (other(moved).joints[:, limbs] - body(params).joints[:, limbs]).norm(dim=-1)
    assert error.max() < 0.02


def test_hips_keep_their_place_without_translation() -> None:
    body = load_default_body()
    other = moved_body(body, offset=(0.1, 0.2, 0.3))
    params = some_params()
    params = BodyParams(global_orient=params.global_orient, body_pose=params.body_pose, betas=params.betas)
    before = body(params).joints[:, 1:3].mean(1)
    after = other(transfer_params(params, body, other)).joints[:, 1:3].mean(1)
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


def test_a_hand_is_no_body() -> None:
    body = load_default_body()
    with pytest.raises(ValueError, match="16 joints"):
        transfer_params(some_params(), body, load_default_hand())
