"""The pose and shape discriminator of HMR (arXiv 1712.06584, sec. 3.3) as HMR 2.0 trains with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.checkpoints.keymap import KeyTable

DISCRIMINATOR_TABLE = KeyTable(
    layout="4D-Humans (discriminator)",
    renames=(
        (r"joint_conv(\d)\.", r"discriminator.D_conv\1."),
        (r"joint_out\.", "discriminator.pose_out."),
        (r"betas_fc(\d)\.", r"discriminator.betas_fc\1."),
        (r"betas_out\.", "discriminator.betas_out."),
        (r"pose_fc(\d)\.", r"discriminator.D_alljoints_fc\1."),
        (r"pose_out\.", "discriminator.D_alljoints_out."),
    ),
    ignored=((r"(backbone|smpl_head|smpl)\.|initialized$", "not of the discriminator"),),
)
"""Key names inside a checkpoint of HMR 2.0."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Sizes; the defaults are those of HMR 2.0 (1,807,619 parameters).

    Attributes:
        joints: Joints without the root.
        joint_dim: Features of each joint, shared weights over joints.
        hidden: Width of the layers over all joints.
        betas_dims: Widths of the layers over the shape coefficients.
    """

    joints: int = 23
    num_betas: int = 10
    joint_dim: int = 32
    hidden: int = 1024
    betas_dims: tuple[int, int] = (10, 5)

    def build(self) -> Discriminator:
        return Discriminator(self)


class Discriminator(nn.Module):
    """Tells real poses and shapes (near 1) from estimated ones (near 0): one number each for every joint's
    rotation, for the shape, and for the pose as a whole."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        dim, hidden, (first, second) = config.joint_dim, config.hidden, config.betas_dims
        self.joint_conv1 = nn.Conv2d(9, dim, kernel_size=1)
        self.joint_conv2 = nn.Conv2d(dim, dim, kernel_size=1)
        self.joint_out = nn.ModuleList(nn.Linear(dim, 1) for _ in range(config.joints))
        self.betas_fc1 = nn.Linear(config.num_betas, first)
        self.betas_fc2 = nn.Linear(first, second)
        self.betas_out = nn.Linear(second, 1)
        self.pose_fc1 = nn.Linear(config.joints * dim, hidden)
        self.pose_fc2 = nn.Linear(hidden, hidden)
        self.pose_out = nn.Linear(hidden, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(
        self, body_pose: Float[Tensor, "batch joints 3 3"], betas: Float[Tensor, "batch betas"]
    ) -> Float[Tensor, "batch joints_2"]:
        """Scores: each joint, then the shape, then all joints together.

        Args:
            body_pose: Rotation matrices of the joints below the root.
        """
        rotations = body_pose.flatten(2).mT[..., None]
        features = F.relu(self.joint_conv2(F.relu(self.joint_conv1(rotations))))[..., 0]
        joints = [out(features[..., i]) for i, out in enumerate(self.joint_out)]
        shape = self.betas_out(F.relu(self.betas_fc2(F.relu(self.betas_fc1(betas)))))
        pose = self.pose_out(F.relu(self.pose_fc2(F.relu(self.pose_fc1(features.flatten(1))))))
        return torch.cat([*joints, shape, pose], dim=1)


def generator_loss(fake: Float[Tensor, "batch scores"]) -> Float[Tensor, ""]:
    """Sum over scores of (D - 1)^2 of estimated poses, per sample; gradients reach the estimates."""
    return (fake - 1).square().sum() / len(fake)


def discriminator_loss(
    fake: Float[Tensor, "batch scores"], real: Float[Tensor, "batch_real scores"]
) -> Float[Tensor, ""]:
    """Sum over scores of D^2 of estimated and (D - 1)^2 of real poses, per sample.

    Args:
        fake: Of estimates cut off from their gradients.
    """
    return fake.square().sum() / len(fake) + (real - 1).square().sum() / len(real)
