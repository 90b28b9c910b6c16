"""Tokens together with where they came from, so that merged ones can be placed back on the grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TokenState:
    """Tokens of a batch while a reducer makes them fewer.

    Attributes:
        tokens: Their features.
        size: Patches merged into each token, >= 1.
        positions: Mean (row, column) of those patches in units of the patch grid.
        group: For every patch of the grid, row-major, the token that stands for it.
    """

    tokens: Float[Tensor, "batch tokens dim"]
    size: Float[Tensor, "batch tokens"]
    positions: Float[Tensor, "batch tokens 2"]
    group: Int[Tensor, "batch patches"]

    @staticmethod
    def from_grid(tokens: Float[Tensor, "batch patches dim"], grid: tuple[int, int]) -> TokenState:
        """One token per patch of a row-major grid of (rows, columns).

        Raises:
            ValueError: The grid does not have as many cells as there are tokens.
        """
        batch, patches, _ = tokens.shape
        rows, columns = grid
        if patches != rows * columns:
            raise ValueError(f"{patches} tokens do not fill a grid of {rows} x {columns}")
        index = torch.arange(patches, device=tokens.device)
        positions = torch.stack((index // columns, index % columns), dim=-1).to(tokens.dtype)
        return TokenState(
            tokens=tokens,
            size=tokens.new_ones(batch, patches),
            positions=positions.expand(batch, patches, 2),
            group=index.expand(batch, patches),
        )

    @property
    def merged(self) -> bool:
        """Whether any token stands for more than one patch."""
        return self.tokens.shape[1] < self.group.shape[1]

    def any_patch(self, patches: Bool[Tensor, "batch patches"]) -> Bool[Tensor, "batch tokens"]:
        """Whether a token stands for at least one of the marked patches."""
        marked = torch.zeros_like(self.size).scatter_add(1, self.group, patches.to(self.size.dtype))
        return marked > 0

    def unmerge(self, grid: tuple[int, int]) -> Float[Tensor, "batch dim rows columns"]:
        """The feature map in which every patch carries the token that stands for it."""
        index = self.group[..., None].expand(-1, -1, self.tokens.shape[-1])
        return self.tokens.gather(1, index).mT.unflatten(-1, grid)
