"""Models by name, and how each does on people that took no part in choosing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.acceleration.frames import Frames
from fasthmr.acceleration.judge import predict_joints
from fasthmr.acceleration.parts import ModelParts
from fasthmr.evaluation.metrics import mpjpe_mm, pa_mpjpe_mm


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model under a name."""

    name: str
    model: nn.Module


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A model on the held-out people; arrays have one number for each.

    Attributes:
        errors: MPJPE in millimetres, PA-MPJPE; empty without labels.
        distance: Mean distance of its joints to those of the unmerged model, millimetres.
    """

    name: str
    errors: Mapping[str, Float[Tensor, "people"]]
    distance: Float[Tensor, "people"]


def measure_variant(
    variant: Variant, parts: ModelParts, frames: Frames, unmerged: Float[Tensor, "people joints 3"]
) -> Measured:
    """Run a merged copy of the model of `parts` on people.

    Args:
        unmerged: Joints of these people by the model itself.
    """
    joints = unmerged if variant.model is parts.model else predict_joints(parts, frames, variant.model)
    errors = {}
    if frames.joints is not None:
        errors = {"MPJPE": mpjpe_mm(joints, frames.joints), "PA-MPJPE": pa_mpjpe_mm(joints, frames.joints)}
    return Measured(name=variant.name, errors=errors, distance=mpjpe_mm(joints, unmerged))
