"""TokenLearner (arXiv 2106.11297, sec. 2), the baseline of TORE's table 6."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.reduction.itp import Clustered, kept_tokens


@dataclass(frozen=True, kw_only=True)
class TokenLearnerConfig:
    """How a `TokenLearner` reads a map.

    Attributes:
        keep_ratio: Tokens for each cell of the map, in (0, 1].
    """

    keep_ratio: float = 0.8

    def __post_init__(self) -> None:
        kept_tokens(2**20, self.keep_ratio)

    def build(self, dim: int, grid: tuple[int, int]) -> TokenLearner:
        return TokenLearner(dim, kept_tokens(grid[0] * grid[1], self.keep_ratio))


class TokenLearner(nn.Module):
    """A sigmoid map for each token, from four 3x3 convolutions; the token is the mean of the map's product
    with the features."""

    def __init__(self, dim: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.norm = nn.LayerNorm(dim)
        self.convs = nn.ModuleList(
            nn.Conv2d(dim if i == 0 else tokens, tokens, 3, padding=1) for i in range(4)
        )

    def forward(self, features: Float[Tensor, "batch dim rows columns"]) -> Clustered:
        cells = features.flatten(2).mT
        maps = self.norm(cells).mT.unflatten(-1, tuple(features.shape[-2:]))
        for i, conv in enumerate(self.convs):
            maps = conv(F.gelu(maps) if i else maps)
        share = torch.sigmoid(maps).flatten(2) / cells.shape[1]
        return share @ cells, share
