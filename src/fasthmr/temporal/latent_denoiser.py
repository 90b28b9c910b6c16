"""Denoiser of motion latents that reads one feature of each frame (FastHMR, arXiv 2510.10868, table 14).

The sequence is [noisy latents | one token for the time step | one token for each frame], as in MLD
(arXiv 2212.04048); the outputs at the latents' places are the prediction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fasthmr.layers.skip_transformer import SkipEncoder, SkipStackConfig

ConditionKind = Literal["linear", "relu_linear", "none"]


@dataclass(frozen=True, kw_only=True)
class LatentDenoiserConfig(SkipStackConfig):
    """Sizes of a `LatentDenoiser`. The defaults are FastHMR's.

    Attributes:
        latents: Latent tokens of a clip.
        condition_dim: Numbers of the feature of one frame.
        condition: How features become tokens: by a linear layer, by ReLU and a linear layer as in MLD's
            released code, or not at all where they are `width` numbers already.
        frames: Length of the clips it is made for; others work up to `max_tokens` less the other tokens.
        time_dim: Numbers that a time step is written as before its two layers; `width` if None.
    """

    latents: int = 27
    condition_dim: int = 1024
    condition: ConditionKind = "linear"
    frames: int = 243
    time_dim: int | None = None
    dropout: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.condition not in ("linear", "relu_linear", "none"):
            raise ValueError(
                f"LatentDenoiserConfig: condition '{self.condition}' is none of linear, relu_linear, none"
            )
        if self.condition == "none" and self.condition_dim != self.width:
            raise ValueError(
                f"LatentDenoiserConfig: features of {self.condition_dim} numbers are no tokens of "
                f"{self.width}; use condition='linear'"
            )
        if min(self.latents, self.frames, self.condition_dim, self.time_numbers) < 1:
            raise ValueError(
                "LatentDenoiserConfig: latents, frames, condition_dim and time_dim are at least 1"
            )
        if self.latents + 1 + self.frames > self.max_tokens:
            raise ValueError(
                f"LatentDenoiserConfig: {self.latents} latents, a time token and {self.frames} frames need "
                f"max_tokens of {self.latents + 1 + self.frames}, not {self.max_tokens}"
            )

    @property
    def time_numbers(self) -> int:
        """Numbers that a time step is written as."""
        return self.width if self.time_dim is None else self.time_dim

    def build(self) -> LatentDenoiser:
        return LatentDenoiser(self)


def sinusoid(timesteps: Int[Tensor, "batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """[cos | sin] of time steps at `dim` // 2 rates that fall from 1 to 1/10000; a zero fills an odd `dim`.

    float32, as in the released codes (arXiv 2006.11239), whose rounding shows at large steps.
    """
    half = dim // 2
    rates = torch.exp(torch.arange(half, device=timesteps.device).float() * -math.log(10000.0) / max(half, 1))
    angles = timesteps.float()[:, None] * rates
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, dim % 2))


class TimeEmbedding(nn.Module):
    """A time step as one token: sinusoid, linear, SiLU, linear."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dim = dim
        self.fc1 = nn.Linear(dim, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, timesteps: Int[Tensor, "batch"]) -> Float[Tensor, "batch width"]:
        return self.fc2(F.silu(self.fc1(sinusoid(timesteps, self.dim).to(self.fc1.weight.dtype))))


class LatentDenoiser(nn.Module):
    """From noisy latents, their time step and features of frames to what `DiffusionSchedule` asks for."""

    def __init__(self, config: LatentDenoiserConfig) -> None:
        super().__init__()
        self.config = config
        self.time = TimeEmbedding(config.time_numbers, config.width)
        self.condition = None if config.condition == "none" else nn.Linear(config.condition_dim, config.width)
        self.stack = SkipEncoder(config)

    def condition_tokens(
        self, condition: Float[Tensor, "batch frames condition_dim"]
    ) -> Float[Tensor, "batch frames width"]:
        """Features as tokens; the same at all time steps."""
        if self.condition is None:
            return condition
        return self.condition(condition.relu() if self.config.condition == "relu_linear" else condition)

    def predict(
        self,
        latents: Float[Tensor, "batch latents width"],
        timesteps: Int[Tensor, "batch"],
        tokens: Float[Tensor, "batch frames width"],
        condition_mask: Bool[Tensor, "batch frames"] | None = None,
    ) -> Float[Tensor, "batch latents width"]:
        """`forward` from what `condition_tokens` gave."""
        latents = latents.to(tokens.dtype)
        x = torch.cat([latents, self.time(timesteps)[:, None].to(tokens.dtype), tokens], dim=1)
        count = latents.shape[1]
        mask = None if condition_mask is None else F.pad(condition_mask, (count + 1, 0), value=True)
        return self.stack(x, mask, slice(0, count))

    def forward(
        self,
        latents: Float[Tensor, "batch latents width"],
        timesteps: Int[Tensor, "batch"],
        condition: Float[Tensor, "batch frames condition_dim"],
        condition_mask: Bool[Tensor, "batch frames"] | None = None,
    ) -> Float[Tensor, "batch latents width"]:
        """Predict for noisy latents.

        Args:
            timesteps: 0 for the least noise.
            condition: Features of consecutive frames.
            condition_mask: False for frames that are not to be read: padding, frames that nobody has seen,
                and in streams the frames of the future.

        Raises:
            ValueError: The clips are longer than the position table allows.
        """
        return self.predict(latents, timesteps, self.condition_tokens(condition), condition_mask)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of one call: a clip of zeros at time 0."""
        config, like = self.config, self.stack.positions
        condition = like.new_zeros(1, config.frames, config.condition_dim)
        return (
            like.new_zeros(1, config.latents, config.width),
            like.new_zeros(1, dtype=torch.int64),
            condition,
        )
