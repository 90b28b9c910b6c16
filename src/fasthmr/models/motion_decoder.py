"""Smooth motion from an image model's readings of a clip: FastHMR's one-step diffusion decoder as a filter.

The paper (arXiv 2510.10868, sec. 3.3) makes a clip's motion from the features of its frames alone. Ours, of
the form "correction", also reads the poses that the image model found, as numbers of each frame and as
latents of the motion prior, and makes the difference to the latents of the true motion. These latents are
settled first by a linear map of each with its neighbours, which takes the jitter away, then led by one of
them and of the features to where the image model's errors allow; both are fitted in closed form, and knowing
nothing beyond them the denoiser changes nothing. The motion made decides where a body faces; limbs go a share
of the way from the settled motion, since a mean of possible limbs is no pose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fasthmr.geometry.interpolation import mix_rotations
from fasthmr.models.motion_prior import CHANNELS, MotionPrior, MotionPriorConfig
from fasthmr.temporal.diffusion import DiffusionSchedule
from fasthmr.temporal.latent_lines import Lead, Settling
from fasthmr.temporal.patch_denoiser import PatchDenoiserConfig
from fasthmr.temporal.patch_vae import PatchVAEConfig
from fasthmr.temporal.representation import Standardiser
from fasthmr.temporal.smoothing import SavitzkyGolay, median_shape
from fasthmr.temporal.windows import OVERLAP, join_windows, split_windows
from fasthmr.types import MotionTrack

_PLACE_CHANNELS = 4
_NEAREST = 1e-2


@dataclass(frozen=True, kw_only=True)
class MotionDecoderConfig:
    """Parts of a `MotionDecoder`.

    Attributes:
        features: Numbers of the image model's feature of a frame.
        form: "correction" (ours) or "features" (the paper's), see above.
        limbs: Share of the turn from the settled motion to the one made that limbs take; the root takes all.
        place: Filter of the place.
    """

    prior: MotionPriorConfig
    denoiser: PatchDenoiserConfig
    schedule: DiffusionSchedule = field(default_factory=DiffusionSchedule)
    features: int = 268
    form: Literal["correction", "features"] = "correction"
    limbs: float = 1.0
    place: SavitzkyGolay = field(default_factory=SavitzkyGolay)

    def __post_init__(self) -> None:
        vae, denoiser = self.prior.vae, self.denoiser
        if not isinstance(vae, PatchVAEConfig):
            raise ValueError("MotionDecoderConfig: the denoiser makes latents of stretches, the VAE others")
        if self.form not in ("correction", "features"):
            raise ValueError(f"MotionDecoderConfig: form '{self.form}' is neither correction nor features")
        if not 0 <= self.limbs <= 1:
            raise ValueError(f"MotionDecoderConfig: limbs={self.limbs} is no share")
        ours = denoiser.latents, denoiser.patch, denoiser.latent_dim
        if ours != (vae.latents, vae.patch, vae.width):
            raise ValueError(
                f"MotionDecoderConfig: the denoiser makes {ours[0]} latents of {ours[1]} frames and "
                f"{ours[2]} numbers, the VAE reads {vae.latents} of {vae.patch} frames and {vae.width}"
            )
        if denoiser.condition_dim != self.condition_dim:
            raise ValueError(
                f"MotionDecoderConfig: {self.condition_dim} numbers are known about a frame, the denoiser "
                f"reads {denoiser.condition_dim}"
            )

    @property
    def side_dim(self) -> int:
        """Numbers of a frame beside its pose: shape, place and score, features."""
        return self.prior.num_betas + _PLACE_CHANNELS + self.features

    @property
    def condition_dim(self) -> int:
        """Numbers that the denoiser reads of a frame."""
        if self.form == "features":
            return self.features
        return CHANNELS[self.prior.representation] + self.side_dim

    def build(self) -> MotionDecoder:
        return MotionDecoder(self)


@dataclass(frozen=True, kw_only=True)
class KnownMotion:
    """What is known about clips before the denoiser is asked.

    Attributes:
        settled: Latents of the image model's motion without its jitter.
        given: The same led by features: what the denoiser corrects.
        tokens: What the denoiser reads.
    """

    settled: Float[Tensor, "batch latents latent_dim"]
    given: Float[Tensor, "batch latents latent_dim"]
    tokens: Float[Tensor, "batch latents width"]


class MotionDecoder(nn.Module):
    """What is known about the frames of clips to their poses; the weights hold the motion prior, too.

    Attributes:
        settle, lead: Linear corrections of the latents of the image model's motion, in this order.
        no_features: What stands for the features of frames that have none, standardised.
        target_mean, target_std: What latents, or differences of latents, are standardised with.
    """

    target_mean: Float[Tensor, "latent_dim"]
    target_std: Float[Tensor, ""]

    def __init__(self, config: MotionDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.prior: MotionPrior = config.prior.build()
        self.denoiser = config.denoiser.build()
        self.side = Standardiser(config.side_dim)
        self.settle = Settling(config.denoiser.latent_dim)
        self.lead = Lead(config.denoiser.latent_dim, config.features, config.denoiser.patch)
        self.no_features = nn.Parameter(torch.zeros(config.features))
        self.register_buffer("target_mean", torch.zeros(config.denoiser.latent_dim))
        self.register_buffer("target_std", torch.ones(()))

    @property
    def channels(self) -> int:
        """Numbers of a pose."""
        return CHANNELS[self.config.prior.representation]

    def frame_numbers(self, track: MotionTrack) -> Float[Tensor, "frames numbers"]:
        """What is known about the frames of a track: standardised pose, shape, place, score, features.

        Features that are missing, or of another size, become `nan`, which stands for none.
        """
        params, config = track.params, self.config
        assert params.transl is not None
        betas = median_shape(self.known_betas(params.betas))
        pose = self.prior.numbers(dataclasses.replace(params, betas=betas))
        depth = params.transl[:, 2:].clamp(min=_NEAREST)
        place = torch.cat([params.transl[:, :2] / depth, depth.log(), track.scores[:, None]], dim=1)
        features = track.features
        if features is None or features.shape[1] != config.features:
            features = torch.full((len(pose), config.features), torch.nan)
        side = torch.cat([betas, place, features], dim=1).to(pose)
        return torch.cat([pose, self.side.normalise(side)], dim=1)

    def denoise(
        self,
        numbers: Float[Tensor, "batch frames numbers"],
        condition_mask: Bool[Tensor, "batch frames"] | None = None,
        noise: Float[Tensor, "batch latents latent_dim"] | None = None,
        steps: int = 1,
    ) -> Float[Tensor, "batch latents latent_dim"]:
        """Latents of the motion.

        Args:
            numbers: From `frame_numbers`.
            condition_mask: False for frames that are not to be read.
            noise: To start from; zeros if None, so that results repeat and windows agree.
            steps: Calls of the denoiser.
        """
        return self._denoised(self.known(numbers, condition_mask), noise, steps)

    def _denoised(self, known: KnownMotion, noise: Tensor | None = None, steps: int = 1) -> Tensor:
        """The same from what `known` gave."""
        if noise is None:
            noise = torch.zeros_like(known.given)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return self.denoiser.predict(noisy, timesteps, known.tokens)

        return self.latents(self.config.schedule.ddim(predict, noise, steps), known.given)

    def known(
        self,
        numbers: Float[Tensor, "batch frames numbers"],
        condition_mask: Bool[Tensor, "batch frames"] | None = None,
    ) -> KnownMotion:
        """What the denoiser begins with; arguments as for `denoise`."""
        settled = self.settle(self.prior.vae.encode(numbers[..., : self.channels]).mean)
        last = numbers[..., -self.config.features :]
        features = torch.where(last.isnan(), self.no_features, last)
        if self.config.form == "features":
            tokens = self.denoiser.condition_tokens(features, None, condition_mask)
            return KnownMotion(settled=settled, given=settled, tokens=tokens)
        given = self.lead(settled, last, condition_mask)
        condition = torch.cat([numbers[..., : -self.config.features], features], dim=-1)
        tokens = self.denoiser.condition_tokens(condition, given, condition_mask)
        return KnownMotion(settled=settled, given=given, tokens=tokens)

    @torch.no_grad()
    def fit_lead(
        self,
        read: Float[Tensor, "clips frames numbers"],
        true: Float[Tensor, "clips frames channels"],
    ) -> None:
        """Fit `lead`; `fit_settling` belongs before it.

        Args:
            read: From `frame_numbers`, with features.
            true: Standardised poses as they truly are.
        """
        encode = self.prior.vae.encode
        settled = self.settle(encode(read[..., : self.channels]).mean)
        self.lead.fit(settled, read[..., -self.config.features :], encode(true).mean)

    @torch.no_grad()
    def fit_settling(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fit `settle`.

        Args:
            pairs: Standardised poses of clips as they are read, and as they truly are; (batch, frames,
                channels) each.
        """
        encode = self.prior.vae.encode
        self.settle.fit((encode(read).mean, encode(true).mean) for read, true in pairs)

    def targets(
        self,
        true: Float[Tensor, "batch latents latent_dim"],
        given: Float[Tensor, "batch latents latent_dim"],
    ) -> Float[Tensor, "batch latents latent_dim"]:
        """What the denoiser is to make of a clip, from the latents of its true motion."""
        wanted = true - given if self.config.form == "correction" else true
        return (wanted - self.target_mean) / self.target_std

    def latents(
        self,
        made: Float[Tensor, "batch latents latent_dim"],
        given: Float[Tensor, "batch latents latent_dim"],
    ) -> Float[Tensor, "batch latents latent_dim"]:
        """The inverse of `targets`."""
        made = made * self.target_std + self.target_mean
        return given + made if self.config.form == "correction" else made

    def forward(
        self,
        numbers: Float[Tensor, "batch frames numbers"],
        condition_mask: Bool[Tensor, "batch frames"] | None = None,
    ) -> Float[Tensor, "batch frames 2 channels"]:
        """Standardised pose numbers of clips from what is known about their frames; see `denoise`.

        Returns:
            As the denoiser makes them, and as they are settled.
        """
        known = self.known(numbers, condition_mask)
        both = torch.cat([self._denoised(known), known.settled])
        return torch.stack(self.prior.vae.decode(both, numbers.shape[1]).chunk(2), dim=2)

    def poses(self, numbers: Float[Tensor, "frames numbers"]) -> Float[Tensor, "frames 2 channels"]:
        """The same for a track of any length; a short one goes on with its last frame, which is not read."""
        frames, size = len(numbers), self.config.denoiser.frames
        missing = max(size - frames, 0)
        overlap = min(OVERLAP, size // 2)
        windows = split_windows(torch.cat([numbers, numbers[-1:].expand(missing, -1)]), size, overlap)
        mask = (torch.arange(size) < frames).expand(len(windows), -1) if missing else None
        joined = join_windows(self(windows, mask).flatten(2), frames + missing, overlap)[:frames]
        return joined.unflatten(1, (2, -1))

    def rotations(
        self, poses: Float[Tensor, "frames 2 channels"], betas: Float[Tensor, "frames num_betas"]
    ) -> Float[Tensor, "frames 24 3 3"]:
        """Rotations of all joints from what `poses` gave."""
        if self.config.limbs == 1:
            return self.prior.rotations(poses[:, 0], betas)
        made, settled = self.prior.rotations(poses, betas[:, None]).unbind(1)
        limbs = mix_rotations(settled[:, 1:], made[:, 1:], self.config.limbs)
        return torch.cat([made[:, :1], limbs], dim=1)

    def known_betas(self, betas: Float[Tensor, "frames given"]) -> Float[Tensor, "frames num_betas"]:
        """As many coefficients as the prior knows; those that are missing are zero."""
        wanted = self.config.prior.num_betas
        return nn.functional.pad(betas[:, :wanted], (0, max(wanted - betas.shape[1], 0)))

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of one call: a clip of zeros."""
        size = self.channels + self.config.side_dim
        return (self.target_mean.new_zeros(1, self.config.denoiser.frames, size),)
