"""Forward kinematics of a bare tree against the body model."""

from __future__ import annotations

import dataclasses

import torch

from fasthmr.body.chain import bone_vectors, joint_positions, world_rotations
from fasthmr.body.default_body import load_default_body
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.types import BodyParams


def test_joints_are_those_of_the_body() -> None:
    body = load_default_body()
    generator = torch.Generator().manual_seed(0)
    R = axis_angle_to_rotmat(torch.randn(4, 24, 3, generator=generator) * 0.7)
    betas = torch.randn(4, 10, generator=generator)
    params = BodyParams(global_orient=R[:, :1], body_pose=R[:, 1:], betas=betas)
    rest = body.joints(dataclasses.replace(body.rest_params(4), betas=betas))
    parents = body.parents.tolist()
    world = world_rotations(R, parents)
    torch.testing.assert_close(world, body.world_rotations(params))
    joints = joint_positions(world, bone_vectors(rest, parents), parents)
    torch.testing.assert_close(joints, body.joints(params))
