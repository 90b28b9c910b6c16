"""What is known about motion before any picture: pose numbers, their scale, and the VAE of their clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.body.ik import IK_PARENTS, NUM_JOINTS, IKSkeleton, forward_kinematics
from fasthmr.body.lbs import BodyModel
from fasthmr.temporal.motion_vae import MotionLatent, MotionVAEConfig
from fasthmr.temporal.patch_vae import PatchVAE, PatchVAEConfig
from fasthmr.temporal.representation import MOTION_CHANNELS, POINT_CHANNELS, PoseRepresentation, Standardiser
from fasthmr.temporal.rotation_representation import ROTATION_CHANNELS, RotationRepresentation
from fasthmr.types import BodyParams

Representation = Literal["points", "rotations"]

CHANNELS: dict[Representation, int] = {"points": MOTION_CHANNELS, "rotations": ROTATION_CHANNELS}
"""Numbers of a pose: 29 points and 23 twists, or 24 rotations of six."""

_TWIST_STD = 0.2
"""Twists that vary less than this (as cosine and sine) count by what they are, not by how rare they are."""


@dataclass(frozen=True, kw_only=True)
class MotionPriorConfig:
    """Parts of a `MotionPrior`.

    Attributes:
        vae: FastHMR's or ours.
        representation: What describes a pose.
        num_betas: Shape coefficients of the skeleton.
    """

    vae: PatchVAEConfig | MotionVAEConfig
    representation: Representation = "points"
    num_betas: int = 10

    def __post_init__(self) -> None:
        if self.representation not in CHANNELS:
            raise ValueError(
                f"MotionPriorConfig: representation '{self.representation}' is none of {CHANNELS}"
            )
        needed = CHANNELS[self.representation]
        if self.vae.channels != needed:
            raise ValueError(
                f"MotionPriorConfig: the VAE reads {self.vae.channels} numbers of a pose, as "
                f"{self.representation} it has {needed}"
            )

    def build(self) -> MotionPrior:
        return MotionPrior(self)


class MotionPrior(nn.Module):
    """Poses of clips to latents and back.

    Attributes:
        rest_template, rest_directions: The skeleton of the body that parameters mean; see `take_skeleton`.
    """

    rest_template: Float[Tensor, "29 3"]
    rest_directions: Float[Tensor, "29 3 num_betas"]

    def __init__(self, config: MotionPriorConfig) -> None:
        super().__init__()
        self.config = config
        self.standardiser = Standardiser(config.vae.channels)
        self.vae = config.vae.build()
        points = len(IK_PARENTS)
        self.register_buffer("rest_template", torch.zeros(points, 3))
        self.register_buffer("rest_directions", torch.zeros(points, 3, config.num_betas))

    @property
    def skeleton(self) -> IKSkeleton:
        """Bones of the body that parameters mean."""
        return IKSkeleton(self.rest_template, self.rest_directions)

    @property
    def representation(self) -> PoseRepresentation | RotationRepresentation:
        """Rotations to pose numbers and back."""
        if self.config.representation == "rotations":
            return RotationRepresentation()
        return PoseRepresentation(self.skeleton)

    def take_skeleton(self, body: BodyModel) -> None:
        """Mean another body by parameters.

        Raises:
            ValueError: It does not have the 24 joints of SMPL, or fewer shape coefficients than the prior.
        """
        skeleton = IKSkeleton.of(body)
        used = self.config.num_betas
        if skeleton.num_betas < used:
            raise ValueError(f"body '{body.name}' has {skeleton.num_betas} shape coefficients, not {used}")
        self.rest_template.copy_(skeleton.template)
        self.rest_directions.copy_(skeleton.directions[..., :used])

    @torch.no_grad()
    def fit(self, motion: Float[Tensor, "clips frames channels"]) -> None:
        """Set what follows from data without training: the scale of pose numbers, and linear parts.

        Args:
            motion: Pose numbers as they are.
        """
        self.standardiser.fit([motion])
        if self.config.representation == "points":
            self.standardiser.std[POINT_CHANNELS:].clamp_(min=_TWIST_STD)
        if isinstance(self.vae, PatchVAE):
            self.vae.fit_linear(self.standardiser.normalise(motion))

    def numbers(self, params: BodyParams) -> Float[Tensor, "*batch channels"]:
        """Standardised pose numbers."""
        return self.standardiser.normalise(self.representation.encode(params))

    def rotations(
        self, numbers: Float[Tensor, "*batch channels"], betas: Float[Tensor, "*#batch num_betas"]
    ) -> Float[Tensor, "*batch 24 3 3"]:
        """Rotations of all joints from standardised pose numbers."""
        return self.representation.decode(self.standardiser.restore(numbers), betas)

    def joints(
        self, rotmats: Float[Tensor, "*batch 24 3 3"], betas: Float[Tensor, "*#batch num_betas"]
    ) -> Float[Tensor, "*batch 24 3"]:
        """Where joints are, in metres; the root stays where it rests."""
        return forward_kinematics(rotmats, self.skeleton.rest(betas))[0][..., :NUM_JOINTS, :]

    def forward(
        self, numbers: Float[Tensor, "batch frames channels"]
    ) -> tuple[Float[Tensor, "batch frames channels"], MotionLatent]:
        """Clips as their latents describe them, and these; numbers standardised."""
        return self.vae(numbers)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of one call: a clip of zeros."""
        return self.vae.example_inputs()
