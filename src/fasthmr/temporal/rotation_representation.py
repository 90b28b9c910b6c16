"""Poses as 24 rotations of six numbers: the plain alternative to `PoseRepresentation`, for comparisons."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.body.ik import NUM_JOINTS
from fasthmr.geometry.rotations import rot6d_to_rotmat, rotmat_to_rot6d
from fasthmr.types import BodyParams

ROTATION_CHANNELS = 6 * NUM_JOINTS


class RotationRepresentation(nn.Module):
    """Rotations to 144 numbers and back. The shape plays no part."""

    def encode(self, params: BodyParams) -> Float[Tensor, "*batch 144"]:
        """The first two columns of every rotation, the root's first."""
        return rotmat_to_rot6d(params.rotmats, layout="columns").flatten(-2)

    def decode(
        self, motion: Float[Tensor, "*batch 144"], betas: Float[Tensor, "*#batch num_betas"]
    ) -> Float[Tensor, "*batch 24 3 3"]:
        """Rotation of each joint to its parent."""
        return rot6d_to_rotmat(motion.unflatten(-1, (NUM_JOINTS, 6)), layout="columns")
