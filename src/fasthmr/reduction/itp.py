"""Image token pruning: cells of a map clustered to fewer tokens (TORE, arXiv 2211.10705, sec. 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Clustered = tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch tokens cells"]]
"""Tokens, and the weight of every cell of the map in each."""


def kept_tokens(cells: int, keep_ratio: float) -> int:
    """How many tokens stay of `cells`: the whole part of the product, as released.

    Raises:
        ValueError: The ratio is not in (0, 1], or nothing stays.
    """
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio={keep_ratio} is not in (0, 1]; 0.8 keeps 39 of 49 tokens")
    tokens = int(cells * keep_ratio)
    if tokens < 1:
        raise ValueError(f"keep_ratio={keep_ratio} keeps none of {cells} tokens")
    return tokens


@dataclass(frozen=True, kw_only=True)
class ITPConfig:
    """How an `ImageTokenPruner` clusters.

    Attributes:
        keep_ratio: Share of the tokens that is kept, in (0, 1]. The paper's "@20%" prunes 20 %: 0.8 here.
            With 1.0 it still clusters, to as many tokens as cells.
    """

    keep_ratio: float = 0.8

    def __post_init__(self) -> None:
        kept_tokens(2**20, self.keep_ratio)

    def build(self, dim: int, grid: tuple[int, int]) -> ImageTokenPruner:
        return ImageTokenPruner(dim, kept_tokens(grid[0] * grid[1], self.keep_ratio))


class ImageTokenPruner(nn.Module):
    """Each token is a convex mix of the map's cells; the norm spans all tokens of a picture together."""

    def __init__(self, dim: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.token_selector_conv2d = nn.Conv2d(dim, dim // 4, 3, padding=1)
        self.token_selector_fc = nn.Linear(dim // 4, tokens)
        self.layer_norm = nn.LayerNorm([tokens, dim])

    def forward(self, features: Float[Tensor, "batch dim rows columns"]) -> Clustered:
        hidden = F.gelu(self.token_selector_conv2d(features))
        share = self.token_selector_fc(hidden.flatten(2).mT).softmax(dim=1).mT
        return self.layer_norm(share @ features.flatten(2).mT), share
