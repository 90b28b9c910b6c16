"""The 29-point skeleton that swing-twist inverse kinematics works on.

24 joints of SMPL and five leaf points (head top, middle fingertips, big toes), so that the head, the hands
and the feet have a bone too and every joint has exactly one bone that defines its swing. The set is that of
HybrIK (arXiv 2011.14672); the equations are in `swing_twist`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import SMPL_JOINT_NAMES, SMPL_PARENTS, tree_levels

IK_NAMES: tuple[str, ...] = (
    *SMPL_JOINT_NAMES,
    *("head_top", "left_middle_tip", "right_middle_tip", "left_big_toe", "right_big_toe"),
)
IK_PARENTS: tuple[int, ...] = (*SMPL_PARENTS, 15, 22, 23, 10, 11)
IK_CHILDREN: tuple[int, ...] = (
    *(3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 27, 28),
    *(15, 16, 17, 24, 18, 19, 20, 21, 22, 23, 25, 26),
)
"""The point that defines the bone, and so the swing, of each of the 24 joints."""

SMPL_LEAF_VERTICES: tuple[int, ...] = (411, 2445, 5905, 3216, 6617)
"""Vertices of the SMPL mesh that are the leaf points."""

NUM_JOINTS = len(SMPL_JOINT_NAMES)
_SMPL_VERTICES = 6890
_LEAF_DIRECTIONS = {"head": (0.0, 1.0, 0.0), "left_hand": (1.0, 0.0, 0.0), "left_foot": (-0.25, 0.0, 1.0)}

_SMPL_LEVELS = tree_levels(SMPL_PARENTS)
TREE_LEVELS: tuple[tuple[slice, list[int]], ...] = tuple(
    (slice(level[0], level[-1] + 1), [SMPL_PARENTS[joint] - above[0] for joint in level])
    for above, level in pairwise(_SMPL_LEVELS)
)
"""Joints of equal depth below the root, a range each, and where their parents stand in the level above."""


class IKSkeleton(nn.Module):
    """The 29 points of a resting body, linear in its shape.

    The buffers stay out of `state_dict`, as those of the body do.

    Args:
        template: Points of the mean rest shape, metres.
        directions: Offset of each point for one standard deviation of each shape coefficient.
    """

    template: Float[Tensor, "29 3"]
    directions: Float[Tensor, "29 3 num_betas"]

    def __init__(self, template: Float[Tensor, "29 3"], directions: Float[Tensor, "29 3 num_betas"]) -> None:
        super().__init__()
        self.register_buffer("template", template, persistent=False)
        self.register_buffer("directions", directions, persistent=False)

    @classmethod
    def of(cls, body: BodyModel) -> IKSkeleton:
        """The skeleton of a body with the 24 joints of SMPL.

        Raises:
            ValueError: The body has another number of joints, or a head, hand or foot without vertices.
        """
        leaves = list(leaf_vertices(body))
        return cls(
            torch.cat([body.J_template, body.v_template[leaves]]),
            torch.cat([body.J_shapedirs, body.shapedirs[leaves]]),
        )

    @property
    def num_betas(self) -> int:
        return self.directions.shape[-1]

    def rest(self, betas: Float[Tensor, "*batch given_betas"]) -> Float[Tensor, "*batch 29 3"]:
        """Rest points in metres; coefficients beyond those given count as zero.

        Raises:
            ValueError: More coefficients than the body has.
        """
        given = betas.shape[-1]
        if given > self.num_betas:
            raise ValueError(f"betas has {given} coefficients, the skeleton has {self.num_betas}")
        offsets = betas @ self.directions[..., :given].flatten(0, 1).mT
        return self.template + offsets.unflatten(-1, (-1, 3))


def leaf_vertices(body: BodyModel) -> tuple[int, ...]:
    """Vertices at the head top, the left and right middle fingertip and the left and right big toe.

    Those of HybrIK on the SMPL mesh. On any other mesh (the free body) the vertex of the head that is highest
    in the T-pose, of the left hand farthest to the side, of the left foot farthest to the front and a quarter
    as much to the inside; on the right the vertices nearest to their mirror images.

    Raises:
        ValueError: The body does not have 24 joints, or no vertex moves mostly with head, hand or foot.
    """
    if body.num_joints != NUM_JOINTS:
        raise ValueError(
            f"body '{body.name}' has {body.num_joints} joints, inverse kinematics needs the {NUM_JOINTS} of "
            "SMPL; see body.transfer.transfer_params"
        )
    if body.num_vertices == _SMPL_VERTICES:
        return SMPL_LEAF_VERTICES
    vertices = body.v_template
    part = body.lbs_weights.argmax(-1)

    def own(name: str) -> Tensor:
        ids = (part == SMPL_JOINT_NAMES.index(name)).nonzero()[:, 0]
        if len(ids) == 0:
            raise ValueError(f"body '{body.name}' has no vertex that moves mostly with its {name}")
        return ids

    def farthest(name: str) -> int:
        ids = own(name)
        return int(ids[(vertices[ids] @ vertices.new_tensor(_LEAF_DIRECTIONS[name])).argmax()])

    def mirrored(vertex: int, name: str) -> int:
        ids = own(name)
        image = vertices[vertex] * vertices.new_tensor([-1.0, 1.0, 1.0])
        return int(ids[(vertices[ids] - image).square().sum(-1).argmin()])

    head, hand, foot = (farthest(name) for name in _LEAF_DIRECTIONS)
    return head, hand, mirrored(hand, "right_hand"), foot, mirrored(foot, "right_foot")


def forward_kinematics(
    rotmats: Float[Tensor, "*#batch 24 3 3"], rest: Float[Tensor, "*#batch 29 3"]
) -> tuple[Float[Tensor, "*batch 29 3"], Float[Tensor, "*batch 24 3 3"]]:
    """Posed points (the root stays where it rests) and the rotation of every joint frame to the root's frame.

    Leaf points move rigidly with their joints: pose correctives of the surface are left out, which makes
    the points exactly invertible.

    Args:
        rotmats: Rotation of each joint to its parent.
        rest: Rest points of the body (`IKSkeleton.rest`).
    """
    bones = bones_of(rest)[..., None]
    world = [rotmats[..., :1, :, :]]
    points = [rest[..., :1, :, None].expand(*world[0].shape[:-1], 1)]
    for joints, parents in TREE_LEVELS:
        above = world[-1][..., parents, :, :]
        points.append(points[-1][..., parents, :, :] + above @ bones[..., joints, :, :])
        world.append(above @ rotmats[..., joints, :, :])
    turned, located = torch.cat(world, dim=-3), torch.cat(points, dim=-3)
    parents = list(IK_PARENTS[NUM_JOINTS:])
    leaves = located[..., parents, :, :] + turned[..., parents, :, :] @ bones[..., NUM_JOINTS:, :, :]
    return torch.cat([located, leaves], dim=-3)[..., 0], turned


def bones_of(points: Float[Tensor, "*batch 29 3"]) -> Float[Tensor, "*batch 29 3"]:
    """Each point relative to its parent; zero for the root."""
    return points - points[..., [0, *IK_PARENTS[1:]], :]
