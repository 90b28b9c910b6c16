"""Variational autoencoder of motion clips of FastHMR (arXiv 2510.10868, table 15) and MLD (2212.04048).

A clip of pose vectors becomes a few latent tokens and back. The encoder reads learned tokens beside the
frames; the decoder's frames start from their positions alone and read the latent tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fasthmr.layers.skip_transformer import SkipDecoder, SkipEncoder, SkipStackConfig, length_mask

DecoderKind = Literal["encoder_decoder", "all_encoder"]


@dataclass(frozen=True, kw_only=True)
class MotionVAEConfig(SkipStackConfig):
    """Sizes of a `MotionVAE`. The defaults are FastHMR's; 5 layers are what its table 12 implies.

    Attributes:
        channels: Numbers that describe one frame.
        frames: Length of the clips it is made for; others work up to `max_tokens` less the latents.
        latents: Latent tokens of a clip.
        decoder: Whether the frames read the latents by cross-attention ("encoder_decoder"), or stand in one
            sequence with them ("all_encoder").
    """

    channels: int = 133
    frames: int = 243
    latents: int = 27
    decoder: DecoderKind = "encoder_decoder"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.channels, self.frames, self.latents) < 1:
            raise ValueError("MotionVAEConfig: channels, frames and latents are at least 1")
        if self.frames + 2 * self.latents > self.max_tokens:
            raise ValueError(
                f"MotionVAEConfig: {self.frames} frames and {2 * self.latents} tokens for the latents need "
                f"max_tokens of {self.frames + 2 * self.latents}, not {self.max_tokens}"
            )
        if self.decoder not in ("encoder_decoder", "all_encoder"):
            raise ValueError(
                f"MotionVAEConfig: decoder '{self.decoder}' is neither encoder_decoder nor all_encoder"
            )

    def build(self) -> MotionVAE:
        return MotionVAE(self)

    def build_decoder(self) -> MotionDecoder:
        """The half that is needed once latents are known."""
        return MotionDecoder(self)


@dataclass(frozen=True, kw_only=True)
class MotionLatent:
    """A normal distribution over latent tokens with independent numbers."""

    mean: Float[Tensor, "batch latents width"]
    log_variance: Float[Tensor, "batch latents width"]

    @property
    def std(self) -> Float[Tensor, "batch latents width"]:
        """Standard deviation."""
        return (0.5 * self.log_variance).exp()

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "batch latents width"]:
        """A draw that gradients pass through."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.std * noise


class MotionEncoder(nn.Module):
    """Clips to the distribution of their latents."""

    def __init__(self, config: MotionVAEConfig) -> None:
        super().__init__()
        self.latents = config.latents
        self.embed = nn.Linear(config.channels, config.width)
        self.tokens = nn.Parameter(torch.empty(2 * config.latents, config.width).normal_())
        self.stack = SkipEncoder(config)

    def forward(
        self,
        motion: Float[Tensor, "batch frames channels"],
        lengths: Int[Tensor, "batch"] | None = None,
    ) -> MotionLatent:
        """Read clips, of which frames from `lengths` on do not count."""
        tokens = self.tokens.expand(motion.shape[0], -1, -1)
        x = torch.cat([tokens, self.embed(motion).to(tokens.dtype)], dim=1)
        mask = None if lengths is None else length_mask(lengths + len(self.tokens), x.shape[1])
        mean, log_variance = self.stack(x, mask, slice(0, len(self.tokens))).split(self.latents, dim=1)
        return MotionLatent(mean=mean, log_variance=log_variance)


class MotionDecoder(nn.Module):
    """Latents to clips."""

    def __init__(self, config: MotionVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.stack = (SkipDecoder if config.decoder == "encoder_decoder" else SkipEncoder)(config)
        self.readout = nn.Linear(config.width, config.channels)

    def forward(
        self,
        latents: Float[Tensor, "batch latents width"],
        frames: int,
        lengths: Int[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch frames channels"]:
        """Write clips of `frames` frames, zeros from `lengths` (at least 1) on."""
        used = None if lengths is None else length_mask(lengths, frames)
        if isinstance(self.stack, SkipDecoder):
            x = self.stack(latents, frames, used)
        else:
            batch, count, width = latents.shape
            x = torch.cat([latents, latents.new_zeros(batch, frames, width)], dim=1)
            mask = None if lengths is None else length_mask(lengths + count, count + frames)
            x = self.stack(x, mask, slice(count, None))
        motion = self.readout(x)
        return motion if used is None else motion.masked_fill(~used[..., None], 0.0)


class MotionVAE(nn.Module):
    """Clips to latents and back. Channels are standardised before and un-standardised after by the caller."""

    def __init__(self, config: MotionVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = MotionEncoder(config)
        self.decoder = config.build_decoder()

    def encode(
        self,
        motion: Float[Tensor, "batch frames channels"],
        lengths: Int[Tensor, "batch"] | None = None,
    ) -> MotionLatent:
        """The distribution of a clip's latents.

        Args:
            lengths: Frames of each clip that count, from the first on; all if None.

        Raises:
            ValueError: The clips are longer than the position table allows.
        """
        return self.encoder(motion, lengths)

    def decode(
        self,
        latents: Float[Tensor, "batch latents width"],
        frames: int,
        lengths: Int[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch frames channels"]:
        """The clip that latents stand for.

        Args:
            lengths: Frames of each clip that count, at least 1; the others come out as zeros.

        Raises:
            ValueError: The clips are longer than the position table allows.
        """
        return self.decoder(latents, frames, lengths)

    def forward(
        self,
        motion: Float[Tensor, "batch frames channels"],
        lengths: Int[Tensor, "batch"] | None = None,
        noise: Float[Tensor, "batch latents width"] | None = None,
    ) -> tuple[Float[Tensor, "batch frames channels"], MotionLatent]:
        """A clip from its latents, and their distribution.

        Args:
            noise: Standard normal numbers that choose a sample; None decodes the mean.
        """
        latent = self.encode(motion, lengths)
        latents = latent.mean if noise is None else latent.mean + latent.std * noise
        return self.decode(latents, motion.shape[1], lengths), latent

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of one call: a clip of zeros."""
        return (self.encoder.tokens.new_zeros(1, self.config.frames, self.config.channels),)
