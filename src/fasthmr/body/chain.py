"""Forward kinematics of any tree of joints, without a body."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def world_rotations(
    rotations: Float[Tensor, "*batch joints 3 3"], parents: Sequence[int]
) -> Float[Tensor, "*batch joints 3 3"]:
    """Rotation of every joint in the frame of the root's parent, from those relative to the parents.

    Args:
        parents: -1 for a root; parents come before their children.
    """
    world: list[Tensor] = []
    for joint, parent in enumerate(parents):
        own = rotations[..., joint, :, :]
        world.append(own if parent < 0 else world[parent] @ own)
    return torch.stack(world, dim=-3)


def joint_positions(
    world: Float[Tensor, "*batch joints 3 3"], bones: Float[Tensor, "*batch joints 3"], parents: Sequence[int]
) -> Float[Tensor, "*batch joints 3"]:
    """Where the joints are.

    Args:
        world: See `world_rotations`.
        bones: Place of each joint in the frame of its parent; that of a root is its place in the world.
    """
    joints: list[Tensor] = []
    for joint, parent in enumerate(parents):
        bone = bones[..., joint, :]
        if parent >= 0:
            bone = joints[parent] + (world[..., parent, :, :] @ bone[..., None])[..., 0]
        joints.append(bone)
    return torch.stack(joints, dim=-2)


def bone_vectors(
    joints: Float[Tensor, "*batch joints 3"], parents: Sequence[int]
) -> Float[Tensor, "*batch joints 3"]:
    """Way from each parent to its joint; the place of a root itself."""
    index = torch.tensor([max(parent, 0) for parent in parents], device=joints.device)
    root = torch.tensor([parent < 0 for parent in parents], device=joints.device)
    return joints - torch.where(root[:, None], torch.zeros_like(joints), joints[..., index, :])
