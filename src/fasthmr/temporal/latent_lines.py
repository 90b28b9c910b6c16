"""Linear corrections of the latents of stretches (`patch_vae`), fitted in closed form (ours)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fasthmr.layers.ridge import fit_ridge
from fasthmr.temporal.patch_vae import with_neighbours

_SETTLE_RIDGE, _LEAD_RIDGE = 1e-3, 0.03
_LEAD_REACH = 2
"""Stretches on each side whose corrections are averaged."""


class Settling(nn.Module):
    """Latents without jitter, from each with its neighbours; as they are until fitted."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.linear = _zeros(3 * latent_dim, latent_dim)

    def forward(self, latents: Float[Tensor, "batch latents dim"]) -> Float[Tensor, "batch latents dim"]:
        return latents + self.linear(with_neighbours(latents))

    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fit to latents of motion as it is read, and as it truly is; (batch, latents, dim) each."""
        rows = ((with_neighbours(read), true - read) for read, true in pairs)
        fit_ridge(self.linear, rows, _SETTLE_RIDGE)


class Lead(nn.Module):
    """Latents led by the mean feature of their frames, averaged over time; as they are until fitted."""

    def __init__(self, latent_dim: int, features: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.linear = _zeros(latent_dim + features, latent_dim)

    def forward(
        self,
        latents: Float[Tensor, "batch latents dim"],
        features: Float[Tensor, "batch frames features"],
        condition_mask: Bool[Tensor, "batch frames"] | None = None,
    ) -> Float[Tensor, "batch latents dim"]:
        """Lead latents. Frames without features (`nan`), and those of a false mask, play no part."""
        mean, seen = self._mean(features, condition_mask)
        correction = self.linear(torch.cat([latents, mean], dim=-1))
        return latents + _around(correction * seen) / _around(seen).clamp(min=1)

    def fit(
        self,
        latents: Float[Tensor, "batch latents dim"],
        features: Float[Tensor, "batch frames features"],
        true: Float[Tensor, "batch latents dim"],
    ) -> None:
        """Fit to latents and features, and the latents of the true motion."""
        rows = torch.cat([latents, self._mean(features)[0]], dim=-1)
        fit_ridge(self.linear, [(rows, true - latents)], _LEAD_RIDGE)

    def _mean(
        self,
        features: Float[Tensor, "batch frames features"],
        condition_mask: Bool[Tensor, "batch frames"] | None = None,
    ) -> tuple[Float[Tensor, "batch latents features"], Float[Tensor, "batch latents 1"]]:
        """Mean features of the frames of each latent, and of how many frames they are."""
        seen = ~features.isnan().any(-1, keepdim=True)
        if condition_mask is not None:
            seen = seen & condition_mask[..., None]
        count = seen.to(features).unflatten(1, (-1, self.patch)).sum(2)
        total = torch.where(seen, features, 0.0).unflatten(1, (-1, self.patch)).sum(2)
        return total / count.clamp(min=1), count


def _zeros(given: int, made: int) -> nn.Linear:
    linear = nn.Linear(given, made)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _around(values: Float[Tensor, "batch latents dim"]) -> Float[Tensor, "batch latents dim"]:
    """Sums over neighbours."""
    size = 2 * _LEAD_REACH + 1
    return F.avg_pool1d(values.mT, size, stride=1, padding=_LEAD_REACH).mT * size
