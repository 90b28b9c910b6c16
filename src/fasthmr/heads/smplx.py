"""The SMPL-X head of CameraHMR's second release: body and hands from a token that knows the camera."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.geometry.rotations import rot6d_to_rotmat
from fasthmr.heads.smpl import ROT6D_IDENTITY, SMPLHead, SMPLHeadConfig, TokenInput
from fasthmr.types import HMROutput


@dataclass(frozen=True, kw_only=True)
class SMPLXHeadConfig(SMPLHeadConfig):
    """Sizes of an `SMPLXHead`; the defaults are the published ones.

    Attributes:
        joints: Rotations of the body readout: the root, the body, then jaw and eyes, which nobody uses.
        body_joints: Joints of the body without the root.
        hand_joints: Finger joints of one hand.
    """

    joints: int = 25
    num_betas: int = 16
    token_input: TokenInput = "bbox"
    body_joints: int = 21
    hand_joints: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations != 1:
            raise ValueError("SMPLXHeadConfig: hands are read once, iterations is 1")

    def build(self) -> SMPLXHead:
        return SMPLXHead(self)


class SMPLXHead(SMPLHead):
    """An `SMPLHead` with a readout for the fingers.

    The pose that it returns has the joints of SMPL-X: body, jaw and eyes at rest, left hand, right hand.
    """

    config: SMPLXHeadConfig
    init_hand_pose: Float[Tensor, "hands6d"]

    def __init__(self, config: SMPLXHeadConfig) -> None:
        super().__init__(config)
        self.dechandpose = nn.Linear(config.dim, 2 * 6 * config.hand_joints)
        self.register_buffer("init_hand_pose", torch.tensor(ROT6D_IDENTITY).repeat(2 * config.hand_joints))

    def _output(
        self,
        read: Float[Tensor, "batch dim"],
        pose6d: Float[Tensor, "batch pose6d"],
        betas: Float[Tensor, "batch num_betas"],
        camera: Float[Tensor, "batch 3"],
    ) -> HMROutput:
        output = super()._output(read, pose6d, betas, camera)
        pose, body_joints = output.params.body_pose, self.config.body_joints
        hands6d = (self.init_hand_pose + self.dechandpose(read)).to(pose.dtype)
        hands = rot6d_to_rotmat(hands6d.unflatten(-1, (-1, 6)), layout="columns")
        face = torch.eye(3, dtype=pose.dtype, device=pose.device).expand_as(pose[:, body_joints:])
        whole = torch.cat([pose[:, :body_joints], face, hands], dim=1)
        return replace(output, params=replace(output.params, body_pose=whole))
