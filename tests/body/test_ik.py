"""The 29-point skeleton: where its points are, and how rotations move them."""

from __future__ import annotations

import pytest
import torch

from fasthmr.body.default_body import load_default_body, load_default_hand
from fasthmr.body.ik import (
    IK_CHILDREN,
    IK_NAMES,
    IK_PARENTS,
    SMPL_LEAF_VERTICES,
    IKSkeleton,
    forward_kinematics,
    leaf_vertices,
)
from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import SMPL_PARENTS
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.types import BodyParams

BODY = load_default_body()
MIRROR = torch.tensor([-1.0, 1.0, 1.0])


def random_params(frames: int, seed: int = 0) -> BodyParams:
    generator = torch.Generator().manual_seed(seed)
    rotmats = axis_angle_to_rotmat(0.7 * torch.randn(frames, 24, 3, generator=generator))
    betas = torch.randn(frames, 10, generator=generator)
    return BodyParams(global_orient=rotmats[:, :1], body_pose=rotmats[:, 1:], betas=betas)


def smpl_sized_body() -> BodyModel:
    """Vertices in random places, as many as SMPL has."""
    generator = torch.Generator().manual_seed(1)
    return BodyModel(
        v_template=torch.randn(6890, 3, generator=generator),
        shapedirs=torch.randn(6890, 3, 4, generator=generator),
        faces=torch.zeros(1, 3, dtype=torch.long),
        parents=SMPL_PARENTS,
        lbs_weights=torch.eye(24)[torch.arange(6890) % 24],
        J_regressor=torch.softmax(torch.randn(24, 6890, generator=generator), -1),
    )


def test_every_joint_has_one_bone_and_every_leaf_one_parent():
    assert len(IK_NAMES) == len(IK_PARENTS) == 29
    assert all(IK_PARENTS[child] == joint for joint, child in enumerate(IK_CHILDREN))
    assert len(set(IK_CHILDREN)) == 24


def test_leaves_of_the_free_body_are_tips_and_mirror_images():
    ids = leaf_vertices(BODY)
    head, left_hand, right_hand, left_toe, right_toe = BODY.v_template[list(ids)]
    top = BODY.v_template[:, 1].max()
    assert head[0].abs() < 1e-4 and head[1] == top
    assert left_hand[0] == BODY.v_template[:, 0].max()
    torch.testing.assert_close(right_hand, left_hand * MIRROR, atol=1e-3, rtol=0)
    torch.testing.assert_close(right_toe, left_toe * MIRROR, atol=1e-3, rtol=0)
    # On the big toe: beyond the point that marks it, and not beside it.
    marked = BODY.keypoints(BODY.v_template)[BODY.keypoint_names.index("left_big_toe")]
    assert left_toe[2] > marked[2] and (left_toe - marked).norm() < 0.012
    parts = BODY.lbs_weights[list(ids)].argmax(-1).tolist()
    assert parts == list(IK_PARENTS[24:])


def test_leaves_stay_mirror_images_for_other_shapes():
    rest = IKSkeleton.of(BODY).rest(2 * torch.eye(10))
    torch.testing.assert_close(rest[:, [26, 28]], rest[:, [25, 27]] * MIRROR, atol=1e-3, rtol=0)


def test_smpl_sized_bodies_use_the_published_vertices():
    body = smpl_sized_body()
    skeleton = IKSkeleton.of(body)
    assert leaf_vertices(body) == SMPL_LEAF_VERTICES
    betas = torch.tensor([[0.5, -1.0, 0.2, 2.0]])
    vertices = body.v_template + body.shapedirs @ betas[0]
    torch.testing.assert_close(skeleton.rest(betas)[0, 24:], vertices[list(SMPL_LEAF_VERTICES)])


def test_rest_points_are_linear_in_the_shape():
    skeleton = IKSkeleton.of(BODY)
    params = random_params(3)
    identity = torch.eye(3).expand(3, 24, 3, 3)
    resting = BodyParams(global_orient=identity[:, :1], body_pose=identity[:, 1:], betas=params.betas)
    rest = skeleton.rest(params.betas)
    torch.testing.assert_close(rest[:, :24], BODY.joints(resting))
    torch.testing.assert_close(rest[:, 24:], BODY(resting).vertices[:, list(leaf_vertices(BODY))])
    torch.testing.assert_close(
        skeleton.rest(params.betas[:, :3]), skeleton.rest(params.betas * (torch.arange(10) < 3))
    )
    with pytest.raises(ValueError, match="11 coefficients"):
        skeleton.rest(torch.zeros(1, 11))


def test_forward_kinematics_is_that_of_the_body():
    params = random_params(4)
    rotmats = torch.cat([params.global_orient, params.body_pose], 1)
    points, world = forward_kinematics(rotmats, IKSkeleton.of(BODY).rest(params.betas))
    mesh = BODY(params)
    torch.testing.assert_close(points[:, :24], mesh.joints, atol=1e-5, rtol=0)
    torch.testing.assert_close(points[:, 24:], mesh.vertices[:, list(leaf_vertices(BODY))], atol=1e-5, rtol=0)
    torch.testing.assert_close(world, BODY.world_rotations(params), atol=1e-5, rtol=0)


def test_forward_kinematics_shares_one_resting_body():
    rotmats = torch.cat([random_params(4).global_orient, random_params(4).body_pose], 1)
    rest = IKSkeleton.of(BODY).rest(torch.zeros(10))
    shared, _ = forward_kinematics(rotmats, rest)
    torch.testing.assert_close(shared, forward_kinematics(rotmats, rest.expand(4, 29, 3))[0])


def test_bodies_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="16 joints"):
        IKSkeleton.of(load_default_hand())
    without_hands = BODY.restrict((BODY.lbs_weights.argmax(-1) != 22).nonzero()[:, 0])
    with pytest.raises(ValueError, match="no vertex that moves mostly with its left_hand"):
        leaf_vertices(without_hands)
