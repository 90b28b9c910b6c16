"""The body of a track at rest, told from its posed vertices and joints alone.

Animation formats want one rest mesh and a skeleton that moves it by linear blend skinning. Taking them from
the track itself, and not from the body model, needs no body file beside the result, and gives the rest mesh
that makes the skinning error least where the body has pose correctives or a shape that changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasthmr.body.chain import bone_vectors, joint_positions, world_rotations

_RIDGE = 1e-6  # squared weight of a guess beside each frame; only decides what the frames leave open


@dataclass(frozen=True, kw_only=True)
class RestSkeleton:
    """Joints of a track at rest and in its frames, with bones of constant length; metres.

    Attributes:
        rest: Joints with all rotations zero, in the model frame.
        world: Rotation of every joint in the frame of the track.
        joints: Places of the joints in the frame of the track.
    """

    rest: Float[Tensor, "joints 3"]
    world: Float[Tensor, "frames joints 3 3"]
    joints: Float[Tensor, "frames joints 3"]

    def offsets(self) -> Float[Tensor, "frames joints 3"]:
        return skinning_offsets(self.rest, self.world, self.joints)


def unpose_joints(
    rotations: Float[Tensor, "frames joints 3 3"],
    joints: Float[Tensor, "frames joints 3"],
    transl: Float[Tensor, "frames 3"],
    parents: Sequence[int],
) -> RestSkeleton:
    """Mean bones of at least one frame; exact where the shape is constant.

    Args:
        rotations: Relative to the parents.
        transl: Place of the model frame.
    """
    world = world_rotations(rotations, parents)
    bones = bone_vectors(joints, parents)
    index = torch.tensor([max(parent, 0) for parent in parents], device=joints.device)
    mean = (world[:, index].mT @ bones[..., None])[..., 0].mean(0)
    mean[0] = (joints[:, 0] - transl).mean(0)
    eye = torch.eye(3).to(rotations).expand(len(parents), 3, 3)
    placed = mean.repeat(len(joints), 1, 1)
    placed[:, 0] = joints[:, 0]
    return RestSkeleton(
        rest=joint_positions(eye, mean, parents), world=world, joints=joint_positions(world, placed, parents)
    )


def unpose_vertices(
    vertices: Float[Tensor, "frames vertices 3"],
    skeleton: RestSkeleton,
    lbs_weights: Float[Tensor, "vertices joints"],
) -> Float[Tensor, "vertices 3"]:
    """The rest mesh that `skin` brings closest to the vertices of all frames (least squares).

    With A the blended rotation of a vertex and b its blended offset, solve sum AᵀA x = sum Aᵀ(v - b). One
    frame can leave x open (two joints that turn a vertex to opposite sides cancel), so that its place on the
    strongest joint counts a little.
    """
    strongest = lbs_weights.argmax(1)
    gram = _RIDGE * len(vertices) * torch.eye(3).to(vertices).repeat(len(lbs_weights), 1, 1)
    right = torch.zeros_like(vertices[0])
    offsets = skeleton.offsets()
    for frame, points in enumerate(vertices):
        R, shift = skeleton.world[frame], offsets[frame]
        A, b = (lbs_weights @ R.flatten(1)).unflatten(1, (3, 3)), lbs_weights @ shift
        guess = (R[strongest].mT @ (points - shift[strongest])[..., None])[..., 0]
        gram += A.mT @ A
        right += (A.mT @ (points - b)[..., None])[..., 0] + _RIDGE * guess
    return torch.linalg.solve(gram, right)


def skinning_offsets(
    rest: Float[Tensor, "joints 3"],
    world: Float[Tensor, "frames joints 3 3"],
    joints: Float[Tensor, "frames joints 3"],
) -> Float[Tensor, "frames joints 3"]:
    """Each joint moves a rest point x to `world` x + offset."""
    return joints - (world @ rest[..., None])[..., 0]


def skin(
    rest_vertices: Float[Tensor, "vertices 3"],
    world: Float[Tensor, "frames joints 3 3"],
    offsets: Float[Tensor, "frames joints 3"],
    lbs_weights: Float[Tensor, "vertices joints"],
) -> Float[Tensor, "frames vertices 3"]:
    """Plain linear blend skinning, as every animation program does it."""
    transforms = torch.cat([world, offsets[..., None]], dim=-1).flatten(-2)
    blended = (lbs_weights @ transforms).unflatten(-1, (3, 4))
    return (blended[..., :3] @ rest_vertices[..., None])[..., 0] + blended[..., 3]


def largest_weights(
    lbs_weights: Float[Tensor, "vertices joints"], count: int
) -> tuple[Int[Tensor, "vertices {count}"], Float[Tensor, "vertices {count}"]]:
    """Joints with the largest weights of each vertex, largest first, and the weights made to sum to one.

    A vertex without any weight follows joint 0; places without weight name joint 0, too.
    """
    missing = max(count - lbs_weights.shape[1], 0)
    weight, index = torch.nn.functional.pad(lbs_weights, (0, missing)).topk(count, dim=1)
    total = weight.sum(1, keepdim=True)
    index = torch.where(weight > 0, index, torch.zeros_like(index))
    weight = weight / torch.where(total > 0, total, torch.ones_like(total))
    weight[:, 0] += (total[:, 0] <= 0).to(weight)
    return index, weight


def leaf_ends(
    rest: Float[Tensor, "joints 3"],
    parents: Sequence[int],
    rest_vertices: Float[Tensor, "vertices 3"] | None = None,
    lbs_weights: Float[Tensor, "vertices joints"] | None = None,
) -> dict[int, Float[Tensor, "3"]]:
    """Where the bone of each joint without children ends, relative to the joint: crown, toes, finger tips.

    The vertex of the joint that lies farthest along the bone to the joint; half of that bone again where
    there are no vertices.
    """
    bones = bone_vectors(rest, parents)
    ends: dict[int, Tensor] = {}
    for joint in sorted(set(range(len(parents))) - set(parents)):
        ends[joint] = bones[joint] / 2 if parents[joint] >= 0 else torch.zeros_like(rest[0])
        if rest_vertices is not None and lbs_weights is not None:
            own = rest_vertices[lbs_weights.argmax(1) == joint] - rest[joint]
            if len(own):
                ends[joint] = own[(own @ bones[joint]).argmax()]
    return ends
