"""Losses of the motion VAE and of the latent denoiser (FastHMR, arXiv 2510.10868, sec. 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fasthmr.layers.skip_transformer import length_mask
from fasthmr.temporal.diffusion import DiffusionSchedule
from fasthmr.temporal.motion_vae import MotionLatent


@dataclass(frozen=True, kw_only=True)
class MotionVAELossWeights:
    """Weight of each mean term of the motion VAE.

    The paper has the first two and does not print the second's weight, which is that of MLD's released code.
    Joints and velocity are in metres, so their weights are to be large.
    """

    reconstruction: float = 1.0
    kl: float = 1e-4
    joints: float = 0.0
    velocity: float = 0.0


def kl_loss(latent: MotionLatent) -> Float[Tensor, ""]:
    """Divergence of the latents from the standard normal distribution, as a mean over all their numbers."""
    variance = latent.log_variance.exp()
    return 0.5 * (latent.mean.square() + variance - 1 - latent.log_variance).mean()


def motion_vae_losses(
    predicted: Float[Tensor, "batch frames channels"],
    motion: Float[Tensor, "batch frames channels"],
    latent: MotionLatent,
    *,
    lengths: Int[Tensor, "batch"] | None = None,
    std: Float[Tensor, "channels"] | None = None,
    joints: int = 29,
    error: Literal["smooth_l1", "squared"] = "smooth_l1",
) -> dict[str, Tensor]:
    """Unweighted means over the frames that count.

    Args:
        lengths: Frames of each clip that count; all if None.
        std: What the channels were divided by. With it come the mean distance of joints in metres, and that
            of their steps from one frame to the next.
        joints: The first three times as many channels are coordinates.
        error: "smooth_l1" as in MLD's released code, or "squared" as in the paper.
    """
    batch, frames, _ = motion.shape
    if lengths is None:
        used = torch.ones(batch, frames, dtype=torch.bool, device=motion.device)
    else:
        used = length_mask(lengths, frames)
    distance = F.smooth_l1_loss if error == "smooth_l1" else F.mse_loss
    terms = {
        "reconstruction": _mean(distance(predicted, motion, reduction="none").mean(-1), used),
        "kl": kl_loss(latent),
    }
    if std is not None:
        channels = 3 * joints
        off = ((predicted - motion)[..., :channels] * std[:channels]).unflatten(-1, (joints, 3))
        terms["joints"] = mean_length(off, used)
        terms["velocity"] = mean_length(off.diff(dim=1), used[:, 1:])
    return terms


def squared_error(
    schedule: DiffusionSchedule,
    predicted: Float[Tensor, "batch *rest"],
    target: Float[Tensor, "batch *rest"],
    timesteps: Int[Tensor, "batch"],
) -> Float[Tensor, "batch"]:
    """Mean squared error of each sample with the schedule's weight: (1 + ᾱ) |v' - v|² for velocities."""
    return schedule.loss_weight(timesteps) * (predicted - target).square().flatten(1).mean(-1)


def future_mask(
    clips: int, frames: int, *, share: float, generator: torch.Generator | None = None
) -> Bool[Tensor, "clips frames"]:
    """Frames to be read when a share of the clips ends early, after any number of frames from 1 on.

    A denoiser trained so can be asked before the clip is over.
    """
    whole = torch.rand(clips, generator=generator) >= share
    ends = torch.randint(1, frames + 1, (clips,), generator=generator)
    return length_mask(torch.where(whole, frames, ends), frames)


def mean_length(
    vectors: Float[Tensor, "batch frames points 3"], used: Bool[Tensor, "batch frames"]
) -> Float[Tensor, ""]:
    """Mean Euclidean length over the frames that count, with a gradient at zero."""
    return _mean((vectors.square().sum(-1) + 1e-12).sqrt().mean(-1), used)


def _mean(values: Float[Tensor, "batch frames"], used: Bool[Tensor, "batch frames"]) -> Float[Tensor, ""]:
    return torch.where(used, values, 0.0).sum() / used.sum().clamp(min=1)
