"""The 44 joints of HMR 2.0: 25 in OpenPose order and 19 regressed from the SMPL mesh.

Follows the released code of 4D-Humans (arXiv 2305.20091), whose joint set goes back to SPIN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.body.skeletons import OPENPOSE25_FROM_SMPL45, OPENPOSE25_NAMES, SMPL_PICKED_VERTICES
from fasthmr.types import BodyMesh

_MID_HIP, _RIGHT_HIP, _LEFT_HIP = (
    OPENPOSE25_NAMES.index(name) for name in ("mid_hip", "right_hip", "left_hip")
)


def with_picked_vertices(
    mesh: BodyMesh, vertex_ids: Sequence[int] = SMPL_PICKED_VERTICES
) -> Float[Tensor, "*batch points 3"]:
    """Kinematic joints followed by single vertices that stand for points without a joint (nose, toes)."""
    return torch.cat([mesh.joints, mesh.vertices[..., list(vertex_ids), :]], dim=-2)


def widen_hips(joints: Float[Tensor, "*batch points 3"]) -> Float[Tensor, "*batch points 3"]:
    """Move the OpenPose hips of the 44 joints outwards and level with the mid hip.

    Each hip moves away from the other by a quarter of their distance, and both by half the way from their
    centre to the mid hip. Off in the released HMR 2.0 models (`update_hips`).
    """
    right, left = joints[..., _RIGHT_HIP, :], joints[..., _LEFT_HIP, :]
    outward = 0.25 * (right - left)
    towards_middle = 0.5 * (joints[..., _MID_HIP, :] - 0.5 * (right + left))
    moved = joints.clone()
    moved[..., _RIGHT_HIP, :] = right + outward + towards_middle
    moved[..., _LEFT_HIP, :] = left - outward + towards_middle
    return moved


class Joints44(nn.Module):
    """Posed SMPL mesh to the 44 joints of HMR 2.0 (`skeletons.HMR2_44_NAMES`).

    Args:
        joint_regressor_extra: The 19 further joints from posed vertices, a file of the published model.
        vertex_ids: The picked vertices; those of the SMPL mesh unless the body has another topology.
        joint_map: Place of each OpenPose point among the joints followed by the picked vertices.
        update_hips: Apply `widen_hips`.
    """

    joint_regressor_extra: Float[Tensor, "extra vertices"]

    def __init__(
        self,
        joint_regressor_extra: Float[Tensor, "extra vertices"],
        *,
        vertex_ids: Sequence[int] = SMPL_PICKED_VERTICES,
        joint_map: Sequence[int] = OPENPOSE25_FROM_SMPL45,
        update_hips: bool = False,
    ) -> None:
        super().__init__()
        self.vertex_ids = tuple(vertex_ids)
        self.joint_map = tuple(joint_map)
        self.update_hips = update_hips
        self.register_buffer("joint_regressor_extra", joint_regressor_extra, persistent=False)

    def forward(self, mesh: BodyMesh) -> Float[Tensor, "*batch points 3"]:
        openpose = with_picked_vertices(mesh, self.vertex_ids)[..., list(self.joint_map), :]
        joints = torch.cat([openpose, self.joint_regressor_extra @ mesh.vertices], dim=-2)
        return widen_hips(joints) if self.update_hips else joints
