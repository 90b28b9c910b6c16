"""Pictures to tokens, and learned positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """One strided convolution; rows and columns that do not fill a patch are dropped."""

    def __init__(self, *, dim: int, patch_size: int = 16, padding: int = 0, channels: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, patch_size, padding)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        return self.proj(image)


def patch_grid(image_size: tuple[int, int], patch_size: int, padding: int = 0) -> tuple[int, int]:
    """Rows and columns of patches in a picture of (height, width)."""
    height, width = ((side + 2 * padding - patch_size) // patch_size + 1 for side in image_size)
    return height, width


def resize_pos_embed(
    pos_embed: Float[Tensor, "1 positions dim"], old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> Float[Tensor, "1 new_positions dim"]:
    """Learned positions of another grid by bicubic interpolation; rows before the grid (class token) stay.

    Args:
        old_grid: Rows and columns that the last rows * columns positions stand for, row-major.
    """
    extra = pos_embed.shape[1] - old_grid[0] * old_grid[1]
    if extra < 0:
        raise ValueError(f"pos_embed has {pos_embed.shape[1]} positions, too few for a grid of {old_grid}")
    grid = pos_embed[:, extra:].mT.unflatten(-1, old_grid)
    resized = F.interpolate(grid, size=new_grid, mode="bicubic", align_corners=False)
    return torch.cat([pos_embed[:, :extra], resized.flatten(2).mT], dim=1)
