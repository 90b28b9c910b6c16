"""FastHMR's diffusion decoder (arXiv 2510.10868): features of a clip's frames to its motion.

A latent denoiser and the decoder of the motion VAE. With zero terminal SNR and v-prediction, one step from
pure noise gives the latents of the clip.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fasthmr.temporal.diffusion import DiffusionSchedule
from fasthmr.temporal.latent_denoiser import LatentDenoiserConfig
from fasthmr.temporal.motion_vae import MotionVAE, MotionVAEConfig

_MIN_STD = 1e-4


@dataclass(frozen=True, kw_only=True)
class DiffusionDecoderConfig:
    """A denoiser with the motion VAE whose latents it makes."""

    vae: MotionVAEConfig
    denoiser: LatentDenoiserConfig
    schedule: DiffusionSchedule = field(default_factory=DiffusionSchedule)

    def __post_init__(self) -> None:
        ours, theirs = (self.denoiser.latents, self.denoiser.width), (self.vae.latents, self.vae.width)
        if ours != theirs:
            raise ValueError(
                f"DiffusionDecoderConfig: the denoiser makes {ours[0]} latents of {ours[1]} numbers, the VAE "
                f"reads {theirs[0]} of {theirs[1]}"
            )
        if self.denoiser.frames != self.vae.frames:
            raise ValueError(
                f"DiffusionDecoderConfig: clips of {self.denoiser.frames} frames for the denoiser, of "
                f"{self.vae.frames} for the VAE"
            )

    def build(self) -> DiffusionDecoder:
        return DiffusionDecoder(self)


class DiffusionDecoder(nn.Module):
    """Features of frames to pose vectors. The VAE's encoder is not part of it.

    Attributes:
        latent_mean, latent_std: What the VAE's latents are standardised with for the denoiser.
        start: The noise that every clip starts from unless other noise is given, so that windows of one video
            agree and results repeat.
    """

    latent_mean: Tensor
    latent_std: Tensor
    start: Tensor

    def __init__(self, config: DiffusionDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.denoiser = config.denoiser.build()
        self.decoder = config.vae.build_decoder()
        shape = config.vae.latents, config.vae.width
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("latent_mean", torch.zeros(shape))
        self.register_buffer("latent_std", torch.ones(shape))
        self.register_buffer("start", torch.zeros(shape))
        self.start.copy_(torch.randn(shape, generator=generator, device="cpu"))

    def take_vae(self, vae: MotionVAE) -> None:
        """Copy the decoder of a trained VAE. `fit_latents` belongs after it.

        Raises:
            ValueError: It has another configuration.
        """
        if vae.config != self.config.vae:
            raise ValueError(f"the VAE is {vae.config}, the decoder was made for {self.config.vae}")
        self.decoder.load_state_dict(vae.decoder.state_dict())

    @torch.no_grad()
    def fit_latents(self, latents: Float[Tensor, "clips latents width"], each_channel: bool = False) -> None:
        """Set mean and standard deviation of latents from those of many clips.

        Args:
            each_channel: A standard deviation for every number, instead of one for all. One keeps numbers
                that carry nothing as small as the VAE made them.
        """
        self.latent_mean.copy_(latents.mean(0))
        centred = latents - latents.mean(0)
        std = centred.square().mean(0 if each_channel else None).sqrt().clamp(min=_MIN_STD)
        self.latent_std.copy_(std.expand_as(self.latent_std))

    def normalise(
        self, latents: Float[Tensor, "batch latents width"]
    ) -> Float[Tensor, "batch latents width"]:
        """Latents of the VAE as the denoiser makes them."""
        return (latents - self.latent_mean) / self.latent_std

    def restore(self, latents: Float[Tensor, "batch latents width"]) -> Float[Tensor, "batch latents width"]:
        """What the denoiser made as latents of the VAE."""
        return latents * self.latent_std + self.latent_mean

    def denoise(
        self,
        features: Float[Tensor, "batch frames condition_dim"],
        condition_mask: Bool[Tensor, "batch frames"] | None = None,
        noise: Float[Tensor, "*draws batch latents width"] | None = None,
        steps: int = 1,
    ) -> Float[Tensor, "batch latents width"]:
        """Latents of the VAE from the features of frames.

        Args:
            condition_mask: False for frames whose features are not to be read.
            noise: Standard normal numbers to start from, `start` if None. Several draws are averaged.
            steps: Calls of the network; more than one is DDIM.
        """
        denoiser, schedule = self.denoiser, self.config.schedule
        tokens = denoiser.condition_tokens(features)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return denoiser.predict(noisy, timesteps, tokens, condition_mask)

        if noise is None:
            noise = self.start.expand(features.shape[0], -1, -1)
        draws = noise.reshape(-1, *noise.shape[-3:])
        clean = torch.stack([schedule.ddim(predict, draw, steps) for draw in draws]).mean(0)
        return self.restore(clean)

    def forward(
        self,
        features: Float[Tensor, "batch frames condition_dim"],
        condition_mask: Bool[Tensor, "batch frames"] | None = None,
        noise: Float[Tensor, "*draws batch latents width"] | None = None,
        steps: int = 1,
    ) -> Float[Tensor, "batch frames channels"]:
        """Pose vectors, standardised as in training, of every frame. Arguments as for `denoise`.

        Raises:
            ValueError: The clips are longer than the position tables allow.
        """
        return self.decoder(self.denoise(features, condition_mask, noise, steps), features.shape[1])

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of one call: features of zeros."""
        return (self.start.new_zeros(1, self.config.vae.frames, self.config.denoiser.condition_dim),)
