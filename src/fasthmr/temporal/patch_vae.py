"""Motion VAE whose latents stand for stretches of equal length, each first of all for its own (ours).

FastHMR's VAE (arXiv 2510.10868, table 15) makes 27 latents of 243 frames, 9 frames each, by transformers that
read every frame and have to find out which frames belong to which latent. Here latent k is a linear map of
frames 9 k to 9 k + 8, fitted to data as principal components, plus what a transformer over the 27 stretches
adds. On the way back a stretch is a linear map of its latent and of those beside it, without which stretches
would not meet, again with a transformer's part. A twentieth of the cost, and it reconstructs before it is
trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.layers.ridge import fit_ridge
from fasthmr.layers.skip_transformer import SkipEncoder, SkipStackConfig
from fasthmr.temporal.motion_vae import MotionLatent

_FIRST_LOG_VARIANCE = -9.0
_LEAST_VARIANCE = 1e-6
_RIDGE = 1e-4


@dataclass(frozen=True, kw_only=True)
class PatchVAEConfig(SkipStackConfig):
    """Sizes of a `PatchVAE`.

    Attributes:
        channels: Numbers that describe one frame.
        patch: Frames of a latent.
        latents: Latents of a clip.
    """

    channels: int = 133
    patch: int = 9
    latents: int = 27
    width: int = 256
    layers: int = 3
    mlp_dim: int = 512
    max_tokens: int = 27
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.channels, self.patch, self.latents) < 1:
            raise ValueError("PatchVAEConfig: channels, patch and latents are at least 1")
        if self.latents > self.max_tokens:
            raise ValueError(
                f"PatchVAEConfig: {self.latents} latents need as many max_tokens, not {self.max_tokens}"
            )
        if self.width > self.patch_channels:
            raise ValueError(
                f"PatchVAEConfig: {self.patch} frames of {self.channels} numbers have no {self.width} "
                "principal components"
            )

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return self.patch * self.latents

    @property
    def patch_channels(self) -> int:
        """Numbers of a stretch."""
        return self.patch * self.channels

    def build(self) -> PatchVAE:
        return PatchVAE(self)

    def build_decoder(self) -> PatchDecoder:
        """The half that is needed once latents are known."""
        return PatchDecoder(self)


def to_patches(
    sequence: Float[Tensor, "batch frames channels"], patch: int
) -> Float[Tensor, "batch patches patch_channels"]:
    """Stretches of consecutive frames as one row of numbers each.

    Raises:
        ValueError: The frames are not a multiple of `patch`.
    """
    if sequence.shape[1] % patch:
        raise ValueError(f"clips of {sequence.shape[1]} frames are no multiple of {patch}")
    return sequence.unflatten(1, (-1, patch)).flatten(2)


def with_neighbours(
    latents: Float[Tensor, "batch latents width"],
) -> Float[Tensor, "batch latents three_widths"]:
    """Each latent between the one before and the one after it; those at the ends are their own neighbours."""
    before = torch.cat([latents[:, :1], latents[:, :-1]], dim=1)
    after = torch.cat([latents[:, 1:], latents[:, -1:]], dim=1)
    return torch.cat([before, latents, after], dim=-1)


class PatchEncoder(nn.Module):
    """Clips to the distribution of their latents."""

    def __init__(self, config: PatchVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.patch_channels, config.width)
        self.embed = nn.Linear(config.width, config.width)
        self.stack = SkipEncoder(config)
        self.readout = nn.Linear(config.width, 2 * config.width)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)
        nn.init.constant_(self.readout.bias[config.width :], _FIRST_LOG_VARIANCE)

    def forward(self, motion: Float[Tensor, "batch frames channels"]) -> MotionLatent:
        linear = self.linear(to_patches(motion, self.config.patch))
        more, log_variance = self.readout(self.stack(self.embed(linear))).chunk(2, dim=-1)
        return MotionLatent(mean=linear + more, log_variance=log_variance)


class PatchDecoder(nn.Module):
    """Latents to clips."""

    def __init__(self, config: PatchVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(3 * config.width, config.patch_channels)
        self.embed = nn.Linear(config.width, config.width)
        self.stack = SkipEncoder(config)
        self.readout = nn.Linear(config.width, config.patch_channels)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(
        self, latents: Float[Tensor, "batch latents width"], frames: int
    ) -> Float[Tensor, "batch frames channels"]:
        """Write clips of `frames` frames.

        Raises:
            ValueError: The latents stand for another number of frames.
        """
        config = self.config
        if frames != config.patch * latents.shape[1]:
            raise ValueError(
                f"{latents.shape[1]} latents stand for {config.patch * latents.shape[1]} frames, not {frames}"
            )
        patches = self.linear(with_neighbours(latents)) + self.readout(self.stack(self.embed(latents)))
        return patches.unflatten(-1, (config.patch, config.channels)).flatten(1, 2)


class PatchVAE(nn.Module):
    """Clips to latents and back; used as `motion_vae.MotionVAE` is, with clips of whole stretches."""

    def __init__(self, config: PatchVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PatchEncoder(config)
        self.decoder = config.build_decoder()

    @torch.no_grad()
    def fit_linear(self, motion: Float[Tensor, "clips frames channels"]) -> Float[Tensor, ""]:
        """Set the linear parts from principal components of clips, channels standardised.

        Latents get a mean variance of 1; among themselves they keep the variances of the components, so that
        errors of latents weigh as much as those of the motion that they make.

        Returns:
            Share of the variance that is lost.

        Raises:
            ValueError: There are fewer stretches than components.
        """
        config = self.config
        rows = to_patches(motion, config.patch).flatten(0, 1).double()
        if len(rows) < config.width:
            raise ValueError(f"fit_linear: {len(rows)} stretches have no {config.width} principal components")
        mean = rows.mean(0)
        variances, axes = torch.linalg.eigh((rows - mean).mT @ (rows - mean) / len(rows))
        kept = variances.flip(0)[: config.width].clamp(min=_LEAST_VARIANCE)
        axes = axes.flip(1)[:, : config.width]
        scale = kept.mean().sqrt()
        encoder, decoder = self.encoder, self.decoder
        encoder.linear.weight.copy_(axes.mT / scale)
        encoder.linear.bias.copy_(-(axes.mT @ mean) / scale)
        for embed in (encoder.embed, decoder.embed):  # every component counts alike to begin with
            embed.weight.mul_((scale / kept.sqrt()).to(embed.weight))
        latents = encoder.linear(to_patches(motion, config.patch))
        around = with_neighbours(latents).flatten(0, 1)
        fit_ridge(decoder.linear, [(around, rows)], _RIDGE)
        return (1 - kept.sum() / variances.sum()).to(motion)

    def encode(self, motion: Float[Tensor, "batch frames channels"]) -> MotionLatent:
        """The distribution of a clip's latents.

        Raises:
            ValueError: The frames are no whole stretches, or more than the position table allows.
        """
        return self.encoder(motion)

    def decode(
        self, latents: Float[Tensor, "batch latents width"], frames: int
    ) -> Float[Tensor, "batch frames channels"]:
        """The clip that latents stand for.

        Raises:
            ValueError: The latents stand for another number of frames.
        """
        return self.decoder(latents, frames)

    def forward(
        self,
        motion: Float[Tensor, "batch frames channels"],
        noise: Float[Tensor, "batch latents width"] | None = None,
    ) -> tuple[Float[Tensor, "batch frames channels"], MotionLatent]:
        """A clip from its latents, and their distribution; arguments as for `MotionVAE`."""
        latent = self.encode(motion)
        latents = latent.mean if noise is None else latent.mean + latent.std * noise
        return self.decode(latents, motion.shape[1]), latent

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of one call: a clip of zeros."""
        like = self.encoder.linear.weight
        return (like.new_zeros(1, self.config.frames, self.config.channels),)
