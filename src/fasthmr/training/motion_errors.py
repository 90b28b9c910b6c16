"""Errors of motion filters on clips whose true motion is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.evaluation.metrics import acceleration_error, mpjpe_mm, pa_mpjpe_mm
from fasthmr.models.motion_decoder import MotionDecoder
from fasthmr.models.motion_filter import DecoderFilter
from fasthmr.models.motion_prior import MotionPrior
from fasthmr.training.clip_features import PairedClip
from fasthmr.types import MotionTrack


@dataclass(frozen=True, kw_only=True)
class MotionErrors:
    """Errors of motion, means over clips, joints relative to the pelvis.

    Attributes:
        mpjpe_mm, pa_mpjpe_mm: Of 24 joints.
        acceleration: mm a frame squared.
    """

    mpjpe_mm: float
    pa_mpjpe_mm: float
    acceleration: float


@torch.no_grad()
def motion_errors(
    prior: MotionPrior, clips: Sequence[PairedClip], smooth: Callable[[MotionTrack], MotionTrack]
) -> MotionErrors:
    """Measure a motion filter on what an image model read."""
    rows = []
    for clip in clips:
        found, true = (motion_joints(prior, track) for track in (smooth(clip.read), clip.true))
        rows.append(
            torch.stack(
                [
                    mpjpe_mm(found, true).mean(),
                    pa_mpjpe_mm(found, true).mean().to(found),
                    acceleration_error(found, true).mean(),
                ]
            )
        )
    return MotionErrors(
        **dict(zip(MotionErrors.__annotations__, torch.stack(rows).mean(0).tolist(), strict=True))
    )


def motion_joints(prior: MotionPrior, track: MotionTrack) -> Float[Tensor, "frames 24 3"]:
    """Joints of a track relative to the pelvis, metres."""
    params = track.params
    joints = prior.joints(params.rotmats, params.betas)
    return joints - joints[:, :1]


def judge_motion(clips: Sequence[PairedClip]) -> Callable[[nn.Module], str]:
    """Says in a line how well a decoder does on clips, beside the image model alone."""
    alone: list[MotionErrors] = []

    def judge(model: nn.Module) -> str:
        decoder = cast(MotionDecoder, model)
        if not alone:
            alone.append(motion_errors(decoder.prior, clips, lambda track: track))
        found, before = motion_errors(decoder.prior, clips, DecoderFilter(decoder=decoder)), alone[0]
        return (
            f"MPJPE {found.mpjpe_mm:.2f} of {before.mpjpe_mm:.2f} mm, PA-MPJPE {found.pa_mpjpe_mm:.2f} of "
            f"{before.pa_mpjpe_mm:.2f} mm, acceleration error {found.acceleration:.2f} of "
            f"{before.acceleration:.2f} mm/frame²"
        )

    return judge
