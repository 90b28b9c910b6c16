"""Latent denoiser with one token for each latent, which holds the condition of the latent's frames (ours).

FastHMR's denoiser (`latent_denoiser`) reads 243 condition tokens beside its 27 latents. The latents of
`patch_vae` stand for known frames, so that what is known about these frames can stand in the same token: 28
tokens instead of 271, and nothing about time has to be learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fasthmr.layers.skip_transformer import SkipEncoder, SkipStackConfig
from fasthmr.temporal.latent_denoiser import TimeEmbedding
from fasthmr.temporal.patch_vae import to_patches


@dataclass(frozen=True, kw_only=True)
class PatchDenoiserConfig(SkipStackConfig):
    """Sizes of a `PatchDenoiser`.

    Attributes:
        latents: Latents of a clip.
        patch: Frames of a latent.
        latent_dim: Numbers of a latent.
        condition_dim: Numbers that are known about one frame.
        frame_dim: Numbers that they are reduced to before frames are joined.
    """

    latents: int = 27
    patch: int = 9
    latent_dim: int = 256
    condition_dim: int = 415
    frame_dim: int = 96
    width: int = 256
    layers: int = 3
    mlp_dim: int = 512
    max_tokens: int = 28
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.latents, self.patch, self.latent_dim, self.condition_dim, self.frame_dim) < 1:
            raise ValueError("PatchDenoiserConfig: all sizes are at least 1")
        if self.latents + 1 > self.max_tokens:
            raise ValueError(
                f"PatchDenoiserConfig: {self.latents} latents and a time token need max_tokens of "
                f"{self.latents + 1}, not {self.max_tokens}"
            )

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return self.patch * self.latents

    def build(self) -> PatchDenoiser:
        return PatchDenoiser(self)


class PatchDenoiser(nn.Module):
    """From noisy latents, their time step and what is known about frames to what a schedule asks for.

    It begins with zeros: the prediction of nobody who knows nothing.
    """

    def __init__(self, config: PatchDenoiserConfig) -> None:
        super().__init__()
        self.config = config
        self.time = TimeEmbedding(config.width, config.width)
        self.frame = nn.Linear(config.condition_dim, config.frame_dim)
        self.hidden_frame = nn.Parameter(torch.zeros(config.frame_dim))
        self.condition = nn.Linear(config.patch * config.frame_dim, config.width)
        self.given = nn.Linear(config.latent_dim, config.width)
        self.noisy = nn.Linear(config.latent_dim, config.width)
        self.stack = SkipEncoder(config)
        self.readout = nn.Linear(config.width, config.latent_dim)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def condition_tokens(
        self,
        condition: Float[Tensor, "batch frames condition_dim"],
        given: Float[Tensor, "batch latents latent_dim"] | None = None,
        condition_mask: Bool[Tensor, "batch frames"] | None = None,
    ) -> Float[Tensor, "batch latents width"]:
        """What is known, one token for each latent; the same at all time steps.

        Args:
            given: Latents of a motion that is known already and is to be corrected.
            condition_mask: False for frames that are not to be read.
        """
        frames = self.frame(condition)
        if condition_mask is not None:
            frames = torch.where(condition_mask[..., None], frames, self.hidden_frame.to(frames.dtype))
        tokens = self.condition(to_patches(frames, self.config.patch))
        return tokens if given is None else tokens + self.given(given)

    def predict(
        self,
        latents: Float[Tensor, "batch latents latent_dim"],
        timesteps: Int[Tensor, "batch"],
        tokens: Float[Tensor, "batch latents width"],
    ) -> Float[Tensor, "batch latents latent_dim"]:
        """`forward` from what `condition_tokens` gave."""
        noisy = self.noisy(latents.to(tokens.dtype)) + tokens
        time = self.time(timesteps)[:, None].to(noisy.dtype)
        count = noisy.shape[1]
        return self.readout(self.stack(torch.cat([noisy, time], dim=1), None, slice(0, count)))

    def forward(
        self,
        latents: Float[Tensor, "batch latents latent_dim"],
        timesteps: Int[Tensor, "batch"],
        condition: Float[Tensor, "batch frames condition_dim"],
        given: Float[Tensor, "batch latents latent_dim"] | None = None,
        condition_mask: Bool[Tensor, "batch frames"] | None = None,
    ) -> Float[Tensor, "batch latents latent_dim"]:
        """Predict for noisy latents; arguments as for `condition_tokens`.

        Raises:
            ValueError: The frames are no whole stretches, or more than the position table allows.
        """
        return self.predict(latents, timesteps, self.condition_tokens(condition, given, condition_mask))

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of one call: a clip of zeros at time 0."""
        config, like = self.config, self.readout.weight
        return (
            like.new_zeros(1, config.latents, config.latent_dim),
            like.new_zeros(1, dtype=torch.int64),
            like.new_zeros(1, config.frames, config.condition_dim),
        )
