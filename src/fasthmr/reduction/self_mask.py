"""A small head that tells person from background on the model's own tokens, in place of a segmentation model.

FastHMR (arXiv 2510.10868) runs a segmentation network beside the model to know which tokens to protect. The
tokens know it themselves: g = sigmoid(W2 gelu(W1 LN(x))) costs a few thousandths of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SelfMaskConfig:
    """Sizes of a `SelfMaskHead`.

    Attributes:
        dim: Width of the tokens it reads.
        hidden: Width between its two layers; 0 makes it a single linear layer.
        after: Blocks that the tokens have passed when it reads them. 0 is what enters the first block, where
            tokens of a convolution stem know enough; plain patches need more.
        threshold: Share of a patch, as the head guesses it, from which on the patch is on the person.
    """

    dim: int
    hidden: int = 4
    after: int = 0
    threshold: float = 0.3

    def __post_init__(self) -> None:
        if self.dim < 1 or self.hidden < 0 or self.after < 0:
            raise ValueError(f"SelfMaskConfig: dim={self.dim}, hidden={self.hidden} or after={self.after}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"SelfMaskConfig: threshold={self.threshold} is not between 0 and 1")

    @property
    def macs_per_token(self) -> int:
        """Multiply-accumulates for one token; a ViT block takes 12 `dim`² and its attention."""
        return (self.dim + 1) * self.hidden if self.hidden else self.dim

    def build(self) -> SelfMaskHead:
        return SelfMaskHead(self)


class SelfMaskHead(nn.Module):
    """Tokens to the logit of the share of their patch that shows the person."""

    def __init__(self, config: SelfMaskConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.fc1 = nn.Linear(config.dim, config.hidden) if config.hidden else None
        self.fc2 = nn.Linear(config.hidden or config.dim, 1)

    def forward(self, tokens: Float[Tensor, "batch patches dim"]) -> Float[Tensor, "batch patches"]:
        x = self.norm(tokens)
        if self.fc1 is not None:
            x = F.gelu(self.fc1(x))
        return self.fc2(x)[..., 0]

    def person(self, tokens: Float[Tensor, "batch patches dim"]) -> Bool[Tensor, "batch patches"]:
        """Patches on the person."""
        return self(tokens).sigmoid() >= self.config.threshold
