"""Noise schedule, training targets and deterministic sampling for diffusion (FastHMR, arXiv 2510.10868).

Written from the equations of DDPM (2006.11239), DDIM (2010.02502), v-prediction (2202.00512) and zero
terminal SNR (2305.08891). Time step 0 has the least noise, `steps` - 1 the most.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

Predict = Callable[[Tensor, Tensor], Tensor]
"""From noisy latents (batch, ...) and time steps (batch) to what the network was trained to predict."""


@dataclass(frozen=True, kw_only=True)
class DiffusionSchedule:
    """Signal and noise at each time step, and what the network predicts; defaults of FastHMR's table 13.

    Attributes:
        steps: Time steps of training.
        beta_start, beta_end: Variance that the first and the last step add, before rescaling; its square root
            is linear between them.
        zero_terminal_snr: Rescale so that the last time step is pure noise.
        prediction: "velocity", or "noise", which cannot be inverted where there is no signal and so goes
            without `zero_terminal_snr`.
    """

    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = True
    prediction: Literal["velocity", "noise"] = "velocity"

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"DiffusionSchedule: steps={self.steps}; at least 2")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"DiffusionSchedule: betas {self.beta_start} to {self.beta_end} do not rise within 0..1"
            )
        if self.prediction not in ("velocity", "noise"):
            raise ValueError(
                f"DiffusionSchedule: prediction '{self.prediction}' is neither velocity nor noise"
            )
        if self.prediction == "noise" and self.zero_terminal_snr:
            raise ValueError(
                "DiffusionSchedule: no signal follows from pure noise and the noise in it; with "
                "prediction='noise' use zero_terminal_snr=False"
            )

    @cached_property
    def betas(self) -> Float64[Tensor, "steps"]:
        """Variance that each step adds."""
        betas = torch.linspace(
            math.sqrt(self.beta_start),
            math.sqrt(self.beta_end),
            self.steps,
            dtype=torch.float64,
            device="cpu",
        ).square()
        return _rescale_to_zero_snr(betas) if self.zero_terminal_snr else betas

    @cached_property
    def alphas_cumprod(self) -> Float64[Tensor, "steps"]:
        """Share of the signal's variance that is left at each time step."""
        return (1 - self.betas).cumprod(0)

    def add_noise(
        self,
        clean: Float[Tensor, "batch *rest"],
        noise: Float[Tensor, "batch *rest"],
        timesteps: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch *rest"]:
        """What is seen at `timesteps`: √ᾱ z₀ + √(1-ᾱ) ε."""
        signal, spread = self._shares(timesteps, clean)
        return signal * clean + spread * noise

    def velocity(
        self,
        clean: Float[Tensor, "batch *rest"],
        noise: Float[Tensor, "batch *rest"],
        timesteps: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch *rest"]:
        """v = √ᾱ ε - √(1-ᾱ) z₀."""
        signal, spread = self._shares(timesteps, clean)
        return signal * noise - spread * clean

    def from_velocity(
        self,
        noisy: Float[Tensor, "batch *rest"],
        velocity: Float[Tensor, "batch *rest"],
        timesteps: Int[Tensor, "batch"],
    ) -> tuple[Float[Tensor, "batch *rest"], Float[Tensor, "batch *rest"]]:
        """Clean latents and noise: z₀ = √ᾱ z - √(1-ᾱ) v, ε = √ᾱ v + √(1-ᾱ) z."""
        signal, spread = self._shares(timesteps, noisy)
        return signal * noisy - spread * velocity, signal * velocity + spread * noisy

    def target(
        self,
        clean: Float[Tensor, "batch *rest"],
        noise: Float[Tensor, "batch *rest"],
        timesteps: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch *rest"]:
        """What the network is to predict."""
        return noise if self.prediction == "noise" else self.velocity(clean, noise, timesteps)

    def estimate(
        self,
        noisy: Float[Tensor, "batch *rest"],
        predicted: Float[Tensor, "batch *rest"],
        timesteps: Int[Tensor, "batch"],
    ) -> tuple[Float[Tensor, "batch *rest"], Float[Tensor, "batch *rest"]]:
        """Clean latents and noise that a prediction means."""
        if self.prediction == "velocity":
            return self.from_velocity(noisy, predicted, timesteps)
        signal, spread = self._shares(timesteps, noisy)
        return (noisy - spread * predicted) / signal, predicted

    def loss_weight(self, timesteps: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Weight of each sample's squared error.

        1 + ᾱ for velocities: errors of v and of the ε that follows from it are added up, and with the
        inverse above the latter is √ᾱ times the former (eq. 6). 1 for noise.
        """
        if self.prediction == "noise":
            return torch.ones(timesteps.shape, device=timesteps.device)
        return (1 + self.alphas_cumprod).to(timesteps.device, torch.float32)[timesteps]

    def timesteps(self, count: int) -> list[int]:
        """Time steps to visit, with the last of training as the first ("trailing").

        Raises:
            ValueError: Fewer than 1, or more than there are.
        """
        if not 1 <= count <= self.steps:
            raise ValueError(f"{count} time steps of {self.steps} cannot be visited")
        return [round(self.steps - k * self.steps / count) - 1 for k in range(count)]

    def ddim(
        self, predict: Predict, noise: Float[Tensor, "batch *rest"], steps: int
    ) -> Float[Tensor, "batch *rest"]:
        """Clean latents from pure noise in `steps` calls of the network, without further noise (DDIM, η = 0).

        Raises:
            ValueError: Fewer steps than 1, or more than there are.
        """
        latents, visited = noise, self.timesteps(steps)
        for now, after in zip(visited, [*visited[1:], None], strict=True):
            at = _everywhere(now, noise)
            clean, residual = self.estimate(latents, predict(latents, at), at)
            latents = clean if after is None else self.add_noise(clean, residual, _everywhere(after, noise))
        return latents

    def one_step(self, predict: Predict, noise: Float[Tensor, "batch *rest"]) -> Float[Tensor, "batch *rest"]:
        """Clean latents from pure noise in one call; with `zero_terminal_snr` that is minus the velocity."""
        return self.ddim(predict, noise, 1)

    def _shares(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1-ᾱ), shaped to multiply `like`."""
        kept = self.alphas_cumprod
        tables = (table.to(timesteps.device, like.dtype) for table in (kept.sqrt(), (1 - kept).sqrt()))
        signal, spread = (table[timesteps].view(-1, *[1] * (like.dim() - 1)) for table in tables)
        return signal, spread


def _rescale_to_zero_snr(betas: Float64[Tensor, "steps"]) -> Float64[Tensor, "steps"]:
    """Variances whose √ᾱ ends at 0 and starts where it did (arXiv 2305.08891, alg. 1)."""
    signal = (1 - betas).cumprod(0).sqrt()
    signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
    kept = signal.square()
    return 1 - torch.cat([kept[:1], kept[1:] / kept[:-1]])


def _everywhere(timestep: int, like: Tensor) -> Int[Tensor, "batch"]:
    return torch.full((like.shape[0],), timestep, dtype=torch.int64, device=like.device)
