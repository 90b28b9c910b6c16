"""The position-wise network of transformer blocks."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Linear, exact GELU, linear; dropout before the second."""

    def __init__(self, *, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        hidden = F.gelu(self.fc1(x))
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        return self.fc2(hidden)
